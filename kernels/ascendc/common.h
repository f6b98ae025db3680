// What every part of the kernel uses: conversions, copies, order between pipes, the header of a batch.
#pragma once

#include "kernel_operator.h"

#include "tiling.h"

namespace br {

using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::PipeBarrier;
using AscendC::TBuf;
using AscendC::TPipe;
using AscendC::TPosition;
using AscendC::TQue;

constexpr int64_t kLeast = INT64_MIN;
constexpr uint32_t kLanes = 64; // floats of a repeat

// The bits of -2^70: the age of an entry that is taken, and the score of one that may not run. Times the
// unit, at most 2^56, it stays finite, so it does not matter whether a device knows infinity or saturates.
constexpr uint32_t kTaken = 0xe2800000;
// Whether a score is that of an entry that is taken: at most -2^64, far below every other.
__aicore__ inline bool IsTaken(uint32_t bits) { return bits >= 0xdf800000; }

// The scalar unit works on integers and handles floats as bits. Its only float operation converts an int32_t.
union FloatBits {
  float value;
  uint32_t bits;
};

__aicore__ inline float FromBits(uint32_t bits) {
  FloatBits both;
  both.bits = bits;
  return both.value;
}

// The float of an integer below 2^62: exact below 2^24, else at most a unit in the last place off.
__aicore__ inline float FloatOf(int64_t value) {
  uint32_t shift = 0;
  while (value >= INT64_C(1) << 30 || value <= -(INT64_C(1) << 30)) {
    value /= 2;
    shift++;
  }
  FloatBits scaled;
  scaled.value = static_cast<float>(static_cast<int32_t>(value));
  if (shift != 0) {
    scaled.bits += shift << 23;
  }
  return scaled.value;
}

// Integers that are ordered as floats are.
__aicore__ inline int32_t OrderOf(uint32_t bits) {
  int32_t magnitude = static_cast<int32_t>(bits & 0x7fffffff);
  return (bits >> 31) != 0 ? -magnitude : magnitude;
}

// The integer of a float that is whole and below 2^62.
__aicore__ inline int64_t WholeOf(uint32_t bits) {
  int32_t exponent = static_cast<int32_t>(bits >> 23 & 0xff) - 150;
  if (exponent <= -24) {
    return 0;
  }
  int64_t whole = (bits & 0x7fffff) | 0x800000;
  whole = exponent >= 0 ? whole << exponent : whole >> -exponent;
  return (bits >> 31) != 0 ? -whole : whole;
}

// Makes one pipe wait until another has finished its instructions so far.
template <HardEvent event> __aicore__ inline void Order(TPipe *pipe) {
  AscendC::TEventID id = pipe->FetchEventID(event);
  AscendC::SetFlag<event>(id);
  AscendC::WaitFlag<event>(id);
}

__aicore__ inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
__aicore__ inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }
__aicore__ inline int64_t Magnitude(int64_t a) { return a < 0 ? -a : a; }
__aicore__ inline uint32_t RoundUp(uint32_t a, uint32_t to) { return (a + to - 1) / to * to; }

// Division that rounds down, by a divisor above zero.
__aicore__ inline int64_t FloorDiv(int64_t a, int64_t b) {
  int64_t quotient = a / b;
  return quotient * b > a ? quotient - 1 : quotient;
}

template <typename T>
__aicore__ inline void CopyIn(const LocalTensor<T> &to, const GlobalTensor<T> &from, uint32_t count) {
  AscendC::DataCopyExtParams shape{1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0};
  AscendC::DataCopyPadExtParams<T> pad{false, 0, 0, T()};
  AscendC::DataCopyPad(to, from, shape, pad);
}

template <typename T>
__aicore__ inline void CopyOut(const GlobalTensor<T> &to, const LocalTensor<T> &from, uint32_t count) {
  AscendC::DataCopyExtParams shape{1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0};
  AscendC::DataCopyPad(to, from, shape);
}

// A batch in global memory: its header, read word by word by the scalar unit.
class Batch {
 public:
  // Opens a batch of the blobs. BR_STATUS_UNWRITTEN: the blobs are not of this version, so the place of the
  // answer is unknown and nothing is written.
  __aicore__ inline uint32_t Open(GM_ADDR input, GM_ADDR output, uint32_t index) {
    Words launch;
    launch.Open(input);
    if (launch.U32(offsetof(BrLaunch, magic)) != BR_MAGIC ||
        launch.U32(offsetof(BrLaunch, version)) != BR_VERSION ||
        index >= launch.U32(offsetof(BrLaunch, batches))) {
      return BR_STATUS_UNWRITTEN;
    }
    uint32_t slot = sizeof(BrLaunch) + index * sizeof(BrSlot);
    in_ = input + launch.I64(slot + offsetof(BrSlot, in_offset));
    out_ = output + launch.I64(slot + offsetof(BrSlot, out_offset));
    words_.Open(in_);
    if (U32(offsetof(BrHeader, magic)) != BR_MAGIC || U32(offsetof(BrHeader, version)) != BR_VERSION) {
      return BR_STATUS_UNWRITTEN;
    }
    mode = U32(offsetof(BrHeader, mode));
    order = U32(offsetof(BrHeader, order));
    flags = U32(offsetof(BrHeader, flags));
    bonus_format = U32(offsetof(BrHeader, bonus_format));
    requests = U32(offsetof(BrHeader, requests));
    workers = U32(offsetof(BrHeader, workers));
    steps = U32(offsetof(BrHeader, steps));
    runs = U32(offsetof(BrHeader, runs));
    stride = U32(offsetof(BrHeader, stride));
    tile = U32(offsetof(BrHeader, tile));
    group = U32(offsetof(BrHeader, group));
    max_picks = U32(offsetof(BrHeader, max_picks));
    unit = I64(offsetof(BrHeader, unit));
    growth_tokens = I64(offsetof(BrHeader, growth_tokens));
    shortest_tokens = I64(offsetof(BrHeader, shortest_tokens));
    longest_tokens = I64(offsetof(BrHeader, longest_tokens));
    greatest_extra_tokens = I64(offsetof(BrHeader, greatest_extra_tokens));
    return IsSound() ? BR_STATUS_OK : BR_STATUS_HEADER;
  }

  __aicore__ inline uint32_t U32(uint32_t offset) const { return words_.U32(offset); }
  __aicore__ inline int64_t I64(uint32_t offset) const { return words_.I64(offset); }

  // A section of the batch or of its answer; the header has its offset.
  template <typename T> __aicore__ inline GlobalTensor<T> Section(uint32_t offset, uint64_t count) const {
    GlobalTensor<T> section;
    section.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(in_ + offset), count);
    return section;
  }
  template <typename T> __aicore__ inline GlobalTensor<T> Answer(uint32_t offset, uint64_t count) const {
    GlobalTensor<T> section;
    section.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(out_ + offset), count);
    return section;
  }

  // Writes an answer that holds a status only.
  __aicore__ inline void Refuse(TPipe *pipe, uint32_t status) const {
    TBuf<TPosition::VECCALC> buffer;
    pipe->InitBuffer(buffer, BR_BLOCK_BYTES);
    LocalTensor<uint32_t> head = buffer.Get<uint32_t>();
    head.SetValue(offsetof(BrOut, magic) / 4, BR_MAGIC);
    head.SetValue(offsetof(BrOut, version) / 4, BR_VERSION);
    head.SetValue(offsetof(BrOut, status) / 4, status);
    Order<HardEvent::S_MTE3>(pipe);
    CopyOut(Answer<uint32_t>(0, sizeof(BrOut) / 4), head, offsetof(BrOut, picks) / 4);
  }

  uint32_t mode, order, flags, bonus_format, requests, workers, steps, runs, stride, tile, group, max_picks;
  int64_t unit, growth_tokens, shortest_tokens, longest_tokens, greatest_extra_tokens;

 private:
  struct Words {
    __aicore__ inline void Open(GM_ADDR at) {
      u32.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t *>(at));
      i64.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t *>(at));
    }
    __aicore__ inline uint32_t U32(uint32_t offset) const { return u32.GetValue(offset / 4); }
    __aicore__ inline int64_t I64(uint32_t offset) const { return i64.GetValue(offset / 8); }
    GlobalTensor<uint32_t> u32;
    GlobalTensor<int64_t> i64;
  };

  // Whether sizes are within the limits, and mode, order and format are known.
  __aicore__ inline bool IsSound() const {
    bool sizes = requests >= 1 && requests <= BR_MAX_REQUESTS && workers >= 1 && workers <= BR_MAX_WORKERS &&
                 steps <= BR_MAX_STEPS && runs >= 1 && runs <= BR_MAX_RUNS && stride <= BR_MAX_STRIDE;
    bool tiles =
        tile >= BR_ENTRY_ALIGN && tile % BR_ENTRY_ALIGN == 0 && stride % BR_ENTRY_ALIGN == 0 && group >= 1;
    bool level = mode == BR_MODE_LEVEL || mode == BR_MODE_LEVELS;
    bool kinds = mode <= BR_MODE_LEVELS && order <= BR_ORDER_MOST_SLOTS && bonus_format <= BR_BONUS_F32 &&
                 !(level && order == BR_ORDER_MATRIX) && unit >= 1 && unit <= BR_GREATEST &&
                 max_picks <= BR_MAX_PICKS;
    bool terms = mode != BR_MODE_LEVELS ||
                 (workers + steps <= BR_MAX_KNOTS && U32(offsetof(BrHeader, terms_at)) != 0 &&
                  U32(offsetof(BrHeader, levels_at)) != 0 && U32(offsetof(BrHeader, rises_at)) != 0);
    return sizes && tiles && kinds && terms &&
           BR_UB_BYTES(stride, tile, bonus_format, flags) <= U32(offsetof(BrHeader, ub_bytes));
  }

  GM_ADDR in_;
  GM_ADDR out_;
  Words words_;
};

} // namespace br
