// Runs the kernel in the vendor's CPU mode, which needs the toolkit and no card:
//
//   balanceroute-cpu INPUT OUTPUT ENTRY BLOCKS [ENTRY BLOCKS]...
//
// INPUT is the input blob of a launch. OUTPUT is the output blob as the host prepares it; it is overwritten
// with what the entries have made of it, one after the other. The vendor's library says on the standard
// output how each block ended: a block that fails leaves its answer unwritten.
#include "tikicpulib.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tiling.h"

extern "C" __global__ __aicore__ void balanceroute_columns(GM_ADDR input, GM_ADDR output);
extern "C" __global__ __aicore__ void balanceroute_greedy(GM_ADDR input, GM_ADDR output);

namespace {

bool Fail(const char *what, const char *name) {
  fprintf(stderr, "balanceroute-cpu: %s: %s\n", name, what);
  return false;
}

bool Read(const char *path, std::vector<uint8_t> *bytes) {
  FILE *file = fopen(path, "rb");
  if (file == nullptr) {
    return Fail("cannot be opened", path);
  }
  uint8_t part[4096];
  size_t count;
  while ((count = fread(part, 1, sizeof part, file)) > 0) {
    bytes->insert(bytes->end(), part, part + count);
  }
  bool whole = ferror(file) == 0;
  fclose(file);
  return whole && !bytes->empty() ? true : Fail(whole ? "is empty" : "cannot be read", path);
}

bool Write(const char *path, const uint8_t *bytes, size_t count) {
  FILE *file = fopen(path, "wb");
  if (file == nullptr) {
    return Fail("cannot be opened", path);
  }
  bool whole = fwrite(bytes, 1, count, file) == count;
  whole = fclose(file) == 0 && whole;
  return whole ? true : Fail("cannot be written", path);
}

bool Launch(const char *entry, const char *blocks_text, uint8_t *input, uint8_t *output) {
  char *end = nullptr;
  unsigned long blocks = strtoul(blocks_text, &end, 10);
  if (*end != 0 || blocks < 1 || blocks > 65535) {
    return Fail("is no number of blocks", blocks_text);
  }
  uint32_t count = static_cast<uint32_t>(blocks);
  if (strcmp(entry, BR_ENTRY_COLUMNS) == 0) {
    ICPU_RUN_KF(balanceroute_columns, count, input, output);
  } else if (strcmp(entry, BR_ENTRY_GREEDY) == 0) {
    ICPU_RUN_KF(balanceroute_greedy, count, input, output);
  } else {
    return Fail("is no entry of the kernel", entry);
  }
  return true;
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 5 || argc % 2 == 0) {
    fprintf(stderr, "balanceroute-cpu INPUT OUTPUT ENTRY BLOCKS [ENTRY BLOCKS]...\n");
    return 2;
  }
  std::vector<uint8_t> given, prepared;
  if (!Read(argv[1], &given) || !Read(argv[2], &prepared)) {
    return 1;
  }
  // What the blocks share: they may be processes of their own.
  uint8_t *input = static_cast<uint8_t *>(AscendC::GmAlloc(given.size()));
  uint8_t *output = static_cast<uint8_t *>(AscendC::GmAlloc(prepared.size()));
  if (input == nullptr || output == nullptr) {
    Fail("no memory for the blobs", argv[1]);
    return 1;
  }
  memcpy(input, given.data(), given.size());
  memcpy(output, prepared.data(), prepared.size());
  AscendC::SetKernelMode(KernelMode::AIV_MODE);
  bool ran = true;
  for (int at = 3; at < argc && ran; at += 2) {
    ran = Launch(argv[at], argv[at + 1], input, output);
  }
  ran = ran && Write(argv[2], output, prepared.size());
  AscendC::GmFree(input);
  AscendC::GmFree(output);
  return ran ? 0 : 1;
}
