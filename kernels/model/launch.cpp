#include "model.h"

#include <cstring>
#include <mutex>

#include "machine.h"

#include "../ascendc/tiling.h"

extern "C" void balanceroute_columns(uint8_t *input, uint8_t *output);
extern "C" void balanceroute_greedy(uint8_t *input, uint8_t *output);

extern "C" {
BrModelCounts br_model_counts;
}

extern "C" void br_model_saturate(int32_t on) { br_model::Machine::Get().saturates = on != 0; }

extern "C" int32_t br_model_launch(const char *entry, uint32_t blocks, const void *arguments,
                                   size_t argument_bytes, const BrModelRange *ranges, size_t range_count,
                                   char *message, size_t message_bytes) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  if (message != nullptr && message_bytes > 0) {
    message[0] = 0;
  }
  void (*kernel)(uint8_t *, uint8_t *) = nullptr;
  if (entry != nullptr && strcmp(entry, BR_ENTRY_COLUMNS) == 0) {
    kernel = balanceroute_columns;
  } else if (entry != nullptr && strcmp(entry, BR_ENTRY_GREEDY) == 0) {
    kernel = balanceroute_greedy;
  } else {
    return BR_MODEL_ENTRY;
  }
  uint8_t *pointers[2];
  if (arguments == nullptr || argument_bytes != sizeof pointers || blocks == 0 || ranges == nullptr ||
      range_count == 0) {
    return BR_MODEL_ARGUMENTS;
  }
  memcpy(pointers, arguments, sizeof pointers);

  br_model::Machine &machine = br_model::Machine::Get();
  std::vector<br_model::Range> allocated;
  for (size_t index = 0; index < range_count; index++) {
    uintptr_t from = reinterpret_cast<uintptr_t>(ranges[index].address);
    allocated.push_back({from, from + ranges[index].bytes});
  }
  machine.BeginLaunch(blocks, std::move(allocated));
  for (uint32_t block = 0; block < blocks; block++) {
    machine.BeginBlock(block);
    try {
      kernel(pointers[0], pointers[1]);
      machine.EndBlock();
    } catch (const br_model::Stopped &) {
      break;
    }
  }
  const br_model::Machine::Counts &counts = machine.counts;
  br_model_counts = BrModelCounts{counts.vector_instructions,
                                  counts.vector_repeats,
                                  counts.copied_in_bytes,
                                  counts.copied_out_bytes,
                                  counts.scalar_ub_accesses,
                                  counts.scalar_gm_reads,
                                  counts.barriers,
                                  counts.events,
                                  counts.ub_bytes};
  if (machine.Violations().empty()) {
    return BR_MODEL_OK;
  }
  std::string text;
  for (const std::string &violation : machine.Violations()) {
    text += violation + "\n";
  }
  if (message != nullptr && message_bytes > 0) {
    strncpy(message, text.c_str(), message_bytes - 1);
    message[message_bytes - 1] = 0;
  }
  return BR_MODEL_VIOLATION;
}
