// A stand-in for the header of the toolkit's CPU mode, for tests: the calls that cpu/run.cpp makes, on our
// own model of the machine. It is our own text, written from the public descriptions of the calls.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernel_operator.h"
#include "model.h"

enum class KernelMode { AIV_MODE };

namespace AscendC {

inline std::vector<BrModelRange> &StandInMemory() {
  static std::vector<BrModelRange> memory;
  return memory;
}

inline void *GmAlloc(size_t bytes) {
  void *memory = aligned_alloc(512, (bytes + 511) / 512 * 512);
  StandInMemory().push_back({memory, bytes});
  return memory;
}

inline void GmFree(void *memory) { free(memory); }

inline void SetKernelMode(KernelMode) {}

inline void StandInRun(const char *entry, uint32_t blocks, void *input, void *output) {
  void *arguments[] = {input, output};
  const std::vector<BrModelRange> &memory = StandInMemory();
  char message[4096];
  int32_t code = br_model_launch(entry, blocks, arguments, sizeof arguments, memory.data(), memory.size(),
                                 message, sizeof message);
  printf("%s: %u blocks: %s\n", entry, blocks, code == BR_MODEL_OK ? "success" : message);
}

} // namespace AscendC

#define ICPU_RUN_KF(kernel, blocks, input, output) AscendC::StandInRun(#kernel, blocks, input, output)
