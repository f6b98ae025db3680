// Decides on the vector cores of an Ascend NPU which waiting request enters which free slot. `tiling.h`
// describes input and output.
#include "greedy.h"

namespace br {

// Finds the best request of each (worker, run) for the workers of one block.
class Look {
 public:
  __aicore__ inline void Run(TPipe *pipe, const Batch &batch, uint32_t block) {
    uint32_t first = block * batch.group, last = first + batch.group;
    if (first >= batch.workers) {
      return;
    }
    last = last < batch.workers ? last : batch.workers;
    loads_.Load(batch);
    columns_.Load(pipe, batch);
    LocalTensor<uint32_t> stage = columns_.Stage<uint32_t>();
    uint32_t stride = batch.U32(offsetof(BrHeader, column_stride)) / 4;
    GlobalTensor<uint32_t> out = batch.Answer<uint32_t>(batch.U32(offsetof(BrHeader, out_columns_at)),
                                                        static_cast<uint64_t>(batch.workers) * stride);
    for (uint32_t g = first; g < last; g++) {
      for (uint32_t word = batch.runs * (sizeof(BrColumn) / 4); word < stride; word++) {
        stage.SetValue(word, 0);
      }
      for (uint32_t run = 0; run < batch.runs; run++) {
        Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
        if (loads_.open_slots[g] > 0) {
          best = columns_.FindInRun(g, run, loads_);
        }
        uint64_t bits = static_cast<uint64_t>(best.score);
        uint32_t at = run * (sizeof(BrColumn) / 4);
        stage.SetValue(at, static_cast<uint32_t>(bits));
        stage.SetValue(at + 1, static_cast<uint32_t>(bits >> 32));
        stage.SetValue(at + 2, best.entry);
        stage.SetValue(at + 3, best.status);
      }
      Order<HardEvent::S_MTE3>(pipe);
      CopyOut(out[static_cast<uint64_t>(g) * stride], stage, stride);
      Order<HardEvent::MTE3_S>(pipe);
    }
  }

 private:
  Loads loads_;
  Columns columns_;
};

} // namespace br

// The first look at every column: block b scores the workers from b * group to (b + 1) * group - 1.
extern "C" __global__ __aicore__ void balanceroute_columns(GM_ADDR input, GM_ADDR output) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  br::Batch batch;
  if (batch.Open(input, output, 0) != BR_STATUS_OK) {
    return; // The columns stay unwritten; balanceroute_greedy answers with the status.
  }
  AscendC::TPipe pipe;
  br::Look look;
  look.Run(&pipe, batch, static_cast<uint32_t>(AscendC::GetBlockIdx()));
}

// Makes the picks: block b decides batch b.
extern "C" __global__ __aicore__ void balanceroute_greedy(GM_ADDR input, GM_ADDR output) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  br::Batch batch;
  uint32_t status = batch.Open(input, output, static_cast<uint32_t>(AscendC::GetBlockIdx()));
  if (status == BR_STATUS_UNWRITTEN) {
    return;
  }
  AscendC::TPipe pipe;
  if (status != BR_STATUS_OK || batch.mode == BR_MODE_FIXED) {
    batch.Refuse(&pipe, BR_STATUS_HEADER);
    return;
  }
  br::Greedy greedy;
  greedy.Run(&pipe, batch);
}
