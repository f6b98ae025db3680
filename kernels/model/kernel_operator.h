// The Ascend C calls that the kernel uses, for a CPU. The toolkit has a header of this name; this one takes
// its place in tests, so that the kernel source compiles unchanged. It is our own text, written from the
// public descriptions of the calls. ../README.md lists what each call checks.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "machine.h"

#define __aicore__
#define __global__
#define __gm__
#define GM_ADDR uint8_t *
#define KERNEL_TASK_TYPE_DEFAULT(type) static_assert(AscendC::type, "a kernel type of the model")

// Half precision, kept as bits; arithmetic converts it to float.
struct half {
  uint16_t bits;
  operator float() const {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    uint32_t out;
    if (exponent == 31) {
      out = sign | 0x7f800000 | fraction << 13;
    } else if (exponent != 0) {
      out = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
      float small = float(fraction) * 5.9604644775390625e-8f; // 2^-24
      memcpy(&out, &small, 4);
      out |= sign;
    }
    float value;
    memcpy(&value, &out, 4);
    return value;
  }
};

enum pipe_t { PIPE_S, PIPE_V, PIPE_MTE2, PIPE_MTE3, PIPE_ALL };

namespace AscendC {

constexpr bool KERNEL_TYPE_AIV_ONLY = true;

enum class TPosition { GM, VECIN, VECOUT, VECCALC };
enum class RoundMode { CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC };
enum class CMPMODE { LT, GT, EQ, LE, GE, NE };
enum class SELMODE { VSEL_CMPMASK_SPR, VSEL_TENSOR_SCALAR_MODE, VSEL_TENSOR_TENSOR_MODE };
enum class HardEvent { MTE2_V, MTE2_S, V_S, S_V, S_MTE2, S_MTE3, MTE3_S, V_MTE2, V_MTE3, MTE3_V };
using TEventID = int8_t;

namespace model {
using namespace br_model;

constexpr Pipe PipeOf(pipe_t pipe) {
  return pipe == PIPE_S ? S : pipe == PIPE_V ? V : pipe == PIPE_MTE2 ? MTE2 : pipe == PIPE_MTE3 ? MTE3 : kAll;
}

struct Ends {
  Pipe from, to;
};

constexpr Ends EndsOf(HardEvent event) {
  switch (event) {
  case HardEvent::MTE2_V: return {MTE2, V};
  case HardEvent::MTE2_S: return {MTE2, S};
  case HardEvent::V_S: return {V, S};
  case HardEvent::S_V: return {S, V};
  case HardEvent::S_MTE2: return {S, MTE2};
  case HardEvent::S_MTE3: return {S, MTE3};
  case HardEvent::MTE3_S: return {MTE3, S};
  case HardEvent::V_MTE2: return {V, MTE2};
  case HardEvent::V_MTE3: return {V, MTE3};
  default: return {MTE3, V};
  }
}

inline Machine &It() { return Machine::Get(); }

// Which state a buffer of a queue is in.
struct Buffer {
  enum State { kFree, kAllocated, kQueued, kTaken } state = kFree;
  size_t at = 0;
  Machine::Knowledge filled = {};
  Machine::Knowledge freed = {};
  // The events that tell the other pipe, where it has not been told to wait yet.
  int filled_event = -1;
  int freed_event = -1;
};
} // namespace model

inline int64_t GetBlockIdx() { return model::It().Block(); }
inline int64_t GetBlockNum() { return model::It().Blocks(); }

// ---- Tensors

template <typename T> class LocalTensor {
 public:
  LocalTensor() = default;
  LocalTensor(size_t at, size_t bytes, TPosition position, model::Buffer *buffer = nullptr)
      : at_(at), bytes_(bytes), position_(position), buffer_(buffer) {}

  // The part of the tensor that begins at an element.
  LocalTensor operator[](uint32_t offset) const {
    if (offset * sizeof(T) > bytes_) {
      model::It().Stop("element %u of a tensor of %zu", offset, bytes_ / sizeof(T));
    }
    return LocalTensor(at_ + offset * sizeof(T), bytes_ - offset * sizeof(T), position_, buffer_);
  }

  template <typename U> LocalTensor<U> ReinterpretCast() const {
    return LocalTensor<U>(at_, bytes_, position_, buffer_);
  }

  uint32_t GetSize() const { return uint32_t(bytes_ / sizeof(T)); }

  T GetValue(uint32_t index) const {
    model::Machine &machine = model::It();
    machine.Begin(model::S, "GetValue");
    size_t at = Place(index);
    machine.Reads(at, sizeof(T));
    machine.counts.scalar_ub_accesses++;
    if (!IsValid(index)) {
      machine.Violate("element %u at UB byte %zu holds dummy data", index, at);
    }
    if (std::is_floating_point<T>::value && machine.HasTag(at, sizeof(T), model::kIndexBits)) {
      machine.Violate("element %u holds the bits of an index, not a number: reinterpret the tensor", index);
    }
    if (machine.HasTag(at, sizeof(T), model::kMaskBits)) {
      machine.Violate("element %u holds mask bits, whose order only the vector unit knows", index);
    }
    T value;
    memcpy(&value, machine.Ub(at), sizeof(T));
    return value;
  }

  void SetValue(uint32_t index, T value) const {
    model::Machine &machine = model::It();
    machine.Begin(model::S, "SetValue");
    size_t at = Place(index);
    machine.Writes(at, sizeof(T));
    machine.counts.scalar_ub_accesses++;
    memcpy(machine.Ub(at), &value, sizeof(T));
    memset(machine.Valid(at), 0xff, sizeof(T));
  }

  // For the model.
  size_t At() const { return at_; }
  size_t Bytes() const { return bytes_; }
  TPosition Position() const { return position_; }
  model::Buffer *Of() const { return buffer_; }
  T *Data() const { return reinterpret_cast<T *>(model::It().Ub(at_)); }
  uint8_t *Valid() const { return model::It().Valid(at_); }
  bool IsValid(uint32_t index) const {
    const uint8_t *valid = Valid() + index * sizeof(T);
    for (size_t byte = 0; byte < sizeof(T); byte++) {
      if (valid[byte] != 0xff) {
        return false;
      }
    }
    return true;
  }
  void SetValid(uint32_t index, bool valid) const {
    memset(Valid() + index * sizeof(T), valid ? 0xff : 0, sizeof(T));
  }

 private:
  size_t Place(uint32_t index) const {
    if ((index + size_t(1)) * sizeof(T) > bytes_) {
      model::It().Stop("element %u of a tensor of %zu", index, bytes_ / sizeof(T));
    }
    return at_ + index * sizeof(T);
  }

  size_t at_ = 0;
  size_t bytes_ = 0;
  TPosition position_ = TPosition::VECCALC;
  model::Buffer *buffer_ = nullptr;
};

template <typename T> class GlobalTensor {
 public:
  void SetGlobalBuffer(__gm__ T *address, uint64_t count = UINT64_MAX) {
    address_ = address;
    count_ = count;
  }

  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor from;
    if (offset > count_) {
      model::It().Stop("element %llu of a global tensor of %llu", (unsigned long long)offset,
                       (unsigned long long)count_);
    }
    from.SetGlobalBuffer(address_ + offset, count_ == UINT64_MAX ? count_ : count_ - offset);
    return from;
  }

  T GetValue(uint64_t index) const {
    model::Machine &machine = model::It();
    machine.Begin(model::S, "GetValue of global memory");
    if (index >= count_) {
      machine.Stop("element %llu of a global tensor of %llu", (unsigned long long)index,
                   (unsigned long long)count_);
    }
    machine.ReadsGlobal(address_ + index, sizeof(T));
    machine.counts.scalar_gm_reads++;
    return address_[index];
  }

  // For the model.
  T *Address(size_t bytes) const {
    if (count_ != UINT64_MAX && bytes > count_ * sizeof(T)) {
      model::It().Stop("%zu bytes of a global tensor of %llu", bytes,
                       (unsigned long long)(count_ * sizeof(T)));
    }
    return address_;
  }

 private:
  T *address_ = nullptr;
  uint64_t count_ = 0;
};

// ---- Buffers and queues

template <TPosition position> class TBuf {
 public:
  template <typename T> LocalTensor<T> Get() const {
    if (bytes_ == 0) {
      model::It().Stop("Get of a buffer that was never initialised");
    }
    return LocalTensor<T>(at_, bytes_, position);
  }

 private:
  friend class TPipe;
  size_t at_ = 0;
  size_t bytes_ = 0;
};

// A queue between two pipes: one fills its buffers, the other empties them.
template <TPosition position, int32_t depth> class TQue {
  static_assert(position == TPosition::VECIN || position == TPosition::VECOUT, "a queue of vectors");
  static constexpr model::Pipe kFills = position == TPosition::VECIN ? model::MTE2 : model::V;
  static constexpr model::Pipe kEmpties = position == TPosition::VECIN ? model::V : model::MTE3;

 public:
  template <typename T> LocalTensor<T> AllocTensor() {
    for (int32_t index = 0; index < count_; index++) {
      model::Buffer &buffer = buffers_[index];
      if (buffer.state == model::Buffer::kFree) {
        buffer.state = model::Buffer::kAllocated;
        if (buffer.freed_event >= 0) {
          model::It().GiveEvent(kEmpties, kFills, buffer.freed_event);
          buffer.freed_event = -1;
        }
        model::It().Learn(kFills, buffer.freed);
        return LocalTensor<T>(buffer.at, bytes_, position, &buffer);
      }
    }
    model::It().Stop("AllocTensor: all %d buffers of the queue are in use, the core waits for ever", count_);
  }

  template <typename T> bool EnQue(const LocalTensor<T> &tensor) {
    model::Buffer *buffer = Own(tensor, "EnQue");
    if (buffer->state != model::Buffer::kAllocated) {
      model::It().Stop("EnQue of a tensor that was not allocated from the queue");
    }
    if (queued_ == depth) {
      model::It().Stop("EnQue: the queue holds its depth of %d already", depth);
    }
    buffer->state = model::Buffer::kQueued;
    buffer->filled_event = model::It().TakeEvent(kFills, kEmpties);
    model::It().Snapshot(kFills, buffer->filled);
    order_[(first_ + queued_++) % kMost] = buffer;
    return true;
  }

  template <typename T> LocalTensor<T> DeQue() {
    if (queued_ == 0) {
      model::It().Stop("DeQue of an empty queue: the core waits for ever");
    }
    model::Buffer *buffer = order_[first_];
    first_ = (first_ + 1) % kMost;
    queued_--;
    buffer->state = model::Buffer::kTaken;
    model::It().GiveEvent(kFills, kEmpties, buffer->filled_event);
    model::It().Learn(kEmpties, buffer->filled);
    return LocalTensor<T>(buffer->at, bytes_, position, buffer);
  }

  template <typename T> void FreeTensor(LocalTensor<T> &tensor) {
    model::Buffer *buffer = Own(tensor, "FreeTensor");
    if (buffer->state == model::Buffer::kFree) {
      model::It().Stop("FreeTensor: the tensor is free already");
    }
    if (buffer->state == model::Buffer::kQueued) {
      model::It().Stop("FreeTensor of a tensor that is still queued");
    }
    buffer->state = model::Buffer::kFree;
    buffer->freed_event = model::It().TakeEvent(kEmpties, kFills);
    model::It().Snapshot(kEmpties, buffer->freed);
  }

  ~TQue() {
    for (int32_t index = 0; index < count_; index++) {
      if (buffers_[index].state != model::Buffer::kFree) {
        model::It().owed.push_back("a tensor of a queue was never freed");
      }
    }
  }

 private:
  friend class TPipe;
  static constexpr int kMost = 8;

  template <typename T> model::Buffer *Own(const LocalTensor<T> &tensor, const char *what) {
    for (int32_t index = 0; index < count_; index++) {
      if (tensor.Of() == &buffers_[index]) {
        return tensor.Of();
      }
    }
    model::It().Stop("%s of a tensor of another buffer", what);
  }

  model::Buffer buffers_[kMost];
  model::Buffer *order_[kMost] = {};
  int32_t count_ = 0;
  int32_t first_ = 0;
  int32_t queued_ = 0;
  size_t bytes_ = 0;
};

class TPipe {
 public:
  // All pipes finish before a kernel ends.
  ~TPipe() { model::It().Barrier(model::kAll); }

  template <TPosition position> bool InitBuffer(TBuf<position> &buffer, uint32_t bytes) {
    buffer.at_ = model::It().TakeUb(bytes, "a buffer");
    buffer.bytes_ = bytes;
    return true;
  }

  template <TPosition position, int32_t depth>
  bool InitBuffer(TQue<position, depth> &queue, uint8_t count, uint32_t bytes) {
    if (count == 0 || count > TQue<position, depth>::kMost) {
      model::It().Stop("InitBuffer of a queue with %d buffers", count);
    }
    for (int32_t index = 0; index < count; index++) {
      queue.buffers_[index].at = model::It().TakeUb(bytes, "a queue's buffer");
    }
    queue.count_ = count;
    queue.bytes_ = bytes;
    return true;
  }

  TEventID FetchEventID(HardEvent) { return 0; }
};

// ---- Order

template <HardEvent event> void SetFlag(TEventID id) {
  constexpr model::Ends ends = model::EndsOf(event);
  model::It().SetFlag(ends.from, ends.to, id);
}

template <HardEvent event> void WaitFlag(TEventID id) {
  constexpr model::Ends ends = model::EndsOf(event);
  model::It().WaitFlag(ends.from, ends.to, id);
}

template <pipe_t pipe> void PipeBarrier() { model::It().Barrier(model::PipeOf(pipe)); }

// ---- Copies

struct DataCopyExtParams {
  uint16_t blockCount;
  uint32_t blockLen;
  uint32_t srcStride;
  uint32_t dstStride;
  uint32_t rsv;
};

template <typename T> struct DataCopyPadExtParams {
  bool isPad;
  uint8_t leftPadding;
  uint8_t rightPadding;
  T paddingValue;
};

namespace model {
inline void CheckCopy(const DataCopyExtParams &parameters) {
  if (parameters.blockCount != 1 || parameters.srcStride != 0 || parameters.dstStride != 0) {
    It().Stop("the model copies one block without strides");
  }
  if (parameters.blockLen == 0 || parameters.blockLen > 2097151) {
    It().Stop("blockLen of %u bytes: 1 to 2097151", parameters.blockLen);
  }
}

inline size_t RoundUp(size_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

template <typename T> void CheckTensor(const LocalTensor<T> &tensor, size_t bytes, const char *which) {
  Machine &machine = It();
  if (tensor.At() % kBlockBytes != 0) {
    machine.Violate("%s begins at UB byte %zu: not a multiple of %zu", which, tensor.At(), kBlockBytes);
  }
  if (bytes > tensor.Bytes()) {
    machine.Stop("%s: %zu bytes of a tensor of %zu", which, bytes, tensor.Bytes());
  }
}
} // namespace model

template <typename T>
void DataCopyPad(const LocalTensor<T> &to, const GlobalTensor<T> &from, const DataCopyExtParams &parameters,
                 const DataCopyPadExtParams<T> &pad) {
  model::Machine &machine = model::It();
  machine.Begin(model::MTE2, "DataCopyPad into the unified buffer");
  model::CheckCopy(parameters);
  size_t bytes = parameters.blockLen, filled = bytes;
  if (pad.isPad) {
    if (pad.leftPadding != 0 || pad.rightPadding * sizeof(T) > model::kBlockBytes) {
      machine.Stop("padding of %u and %u elements: the model pads on the right, up to 32 bytes",
                   pad.leftPadding, pad.rightPadding);
    }
    filled += pad.rightPadding * sizeof(T);
  }
  size_t whole = model::RoundUp(filled);
  model::CheckTensor(to, whole, "destination");
  const T *source = from.Address(bytes);
  machine.ReadsGlobal(source, bytes);
  machine.Writes(to.At(), whole);
  machine.counts.copied_in_bytes += bytes;
  uint8_t *data = machine.Ub(to.At()), *valid = machine.Valid(to.At());
  memcpy(data, source, bytes);
  for (size_t at = bytes; at + sizeof(T) <= filled; at += sizeof(T)) {
    memcpy(data + at, &pad.paddingValue, sizeof(T));
  }
  // What a copy fills the last 32 bytes with is undefined.
  memset(data + filled, 0x7f, whole - filled);
  memset(valid, 0xff, filled);
  memset(valid + filled, 0, whole - filled);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T> &to, const LocalTensor<T> &from, const DataCopyExtParams &parameters) {
  model::Machine &machine = model::It();
  machine.Begin(model::MTE3, "DataCopyPad into global memory");
  model::CheckCopy(parameters);
  size_t bytes = parameters.blockLen;
  model::CheckTensor(from, bytes, "source");
  machine.Reads(from.At(), bytes);
  T *target = to.Address(bytes);
  machine.WritesGlobal(target, bytes);
  machine.counts.copied_out_bytes += bytes;
  const uint8_t *valid = from.Valid();
  for (size_t at = 0; at < bytes; at++) {
    if (valid[at] != 0xff) {
      machine.Violate("byte %zu of %zu is dummy data", at, bytes);
      break;
    }
  }
  if (machine.HasTag(from.At(), bytes, model::kMaskBits)) {
    machine.Violate("mask bits leave the vector unit");
  }
  memcpy(target, machine.Ub(from.At()), bytes);
}

// ---- Vectors

namespace model {
inline void CountVector(size_t bytes) {
  Machine &machine = It();
  machine.counts.vector_instructions++;
  machine.counts.vector_repeats += (bytes + kRepeatBytes - 1) / kRepeatBytes;
}

inline void CheckOverlap(size_t a, size_t a_bytes, size_t b, size_t b_bytes) {
  bool same = a == b && a_bytes == b_bytes;
  if (!same && a < b + b_bytes && b < a + a_bytes) {
    It().Violate("operands overlap in part: UB bytes %zu to %zu and %zu to %zu", a, a + a_bytes, b,
                 b + b_bytes);
  }
}

inline void CheckCount(int32_t count) {
  if (count <= 0) {
    It().Stop("%d elements", count);
  }
}

// What arithmetic leaves in the buffer: in the saturating mode nothing beyond the greatest finite value.
inline float Settled(float x) {
  return It().saturates && std::isinf(x) ? std::copysign(std::numeric_limits<float>::max(), x) : x;
}
inline int16_t Settled(int16_t x) { return x; }

template <typename T, typename Op>
void Unary(const char *name, const LocalTensor<T> &to, const LocalTensor<T> &from, int32_t count, Op op) {
  Machine &machine = It();
  machine.Begin(V, name);
  CheckCount(count);
  size_t bytes = count * sizeof(T);
  CheckTensor(to, bytes, "destination");
  CheckTensor(from, bytes, "source");
  CheckOverlap(to.At(), bytes, from.At(), bytes);
  machine.Reads(from.At(), bytes);
  machine.Writes(to.At(), bytes);
  CountVector(bytes);
  T *result = to.Data();
  const T *source = from.Data();
  for (int32_t i = 0; i < count; i++) {
    result[i] = Settled(op(source[i]));
  }
  if (to.At() != from.At()) {
    memcpy(to.Valid(), from.Valid(), bytes);
  }
}

template <typename T, typename Op>
void Binary(const char *name, const LocalTensor<T> &to, const LocalTensor<T> &a, const LocalTensor<T> &b,
            int32_t count, Op op) {
  Machine &machine = It();
  machine.Begin(V, name);
  CheckCount(count);
  size_t bytes = count * sizeof(T);
  CheckTensor(to, bytes, "destination");
  CheckTensor(a, bytes, "first source");
  CheckTensor(b, bytes, "second source");
  CheckOverlap(to.At(), bytes, a.At(), bytes);
  CheckOverlap(to.At(), bytes, b.At(), bytes);
  machine.Reads(a.At(), bytes);
  machine.Reads(b.At(), bytes);
  machine.Writes(to.At(), bytes);
  CountVector(bytes);
  T *result = to.Data();
  const T *first = a.Data(), *second = b.Data();
  for (int32_t i = 0; i < count; i++) {
    result[i] = Settled(op(first[i], second[i]));
  }
  uint8_t *valid = to.Valid();
  const uint8_t *first_valid = a.Valid(), *second_valid = b.Valid();
  for (size_t i = 0; i < bytes; i++) {
    valid[i] = first_valid[i] & second_valid[i];
  }
}
} // namespace model

template <typename T>
void Adds(const LocalTensor<T> &to, const LocalTensor<T> &from, T scalar, int32_t count) {
  model::Unary("Adds", to, from, count, [scalar](T x) { return x + scalar; });
}
template <typename T>
void Muls(const LocalTensor<T> &to, const LocalTensor<T> &from, T scalar, int32_t count) {
  model::Unary("Muls", to, from, count, [scalar](T x) { return x * scalar; });
}
template <typename T>
void Maxs(const LocalTensor<T> &to, const LocalTensor<T> &from, T scalar, int32_t count) {
  model::Unary("Maxs", to, from, count, [scalar](T x) { return x > scalar ? x : scalar; });
}
template <typename T>
void Add(const LocalTensor<T> &to, const LocalTensor<T> &a, const LocalTensor<T> &b, int32_t count) {
  model::Binary("Add", to, a, b, count, [](T x, T y) { return x + y; });
}
template <typename T>
void Sub(const LocalTensor<T> &to, const LocalTensor<T> &a, const LocalTensor<T> &b, int32_t count) {
  model::Binary("Sub", to, a, b, count, [](T x, T y) { return x - y; });
}
template <typename T>
void And(const LocalTensor<T> &to, const LocalTensor<T> &a, const LocalTensor<T> &b, int32_t count) {
  static_assert(sizeof(T) == 2 && std::is_integral<T>::value, "And takes 16-bit integers");
  model::Binary("And", to, a, b, count, [](T x, T y) { return T(x & y); });
}

template <typename T> void Duplicate(const LocalTensor<T> &to, T scalar, int32_t count) {
  model::Machine &machine = model::It();
  machine.Begin(model::V, "Duplicate");
  model::CheckCount(count);
  size_t bytes = count * sizeof(T);
  model::CheckTensor(to, bytes, "destination");
  machine.Writes(to.At(), bytes);
  model::CountVector(bytes);
  for (int32_t i = 0; i < count; i++) {
    to.Data()[i] = scalar;
  }
  memset(to.Valid(), 0xff, bytes);
}

// Converts half or int16_t to float, which is exact.
template <typename T, typename U>
void Cast(const LocalTensor<T> &to, const LocalTensor<U> &from, RoundMode mode, int32_t count) {
  static_assert(std::is_same<T, float>::value &&
                    (std::is_same<U, half>::value || std::is_same<U, int16_t>::value),
                "the model widens half and int16_t to float");
  model::Machine &machine = model::It();
  machine.Begin(model::V, "Cast");
  model::CheckCount(count);
  if (mode != RoundMode::CAST_NONE) {
    machine.Violate("a widening cast rounds nothing: CAST_NONE");
  }
  size_t to_bytes = count * sizeof(T), from_bytes = count * sizeof(U);
  model::CheckTensor(to, to_bytes, "destination");
  model::CheckTensor(from, from_bytes, "source");
  model::CheckOverlap(to.At(), to_bytes, from.At(), from_bytes);
  machine.Reads(from.At(), from_bytes);
  machine.Writes(to.At(), to_bytes);
  model::CountVector(to_bytes);
  for (int32_t i = 0; i < count; i++) {
    to.Data()[i] = T(from.Data()[i]);
    to.SetValid(i, from.IsValid(i));
  }
}

// One bit for each element; the elements must fill whole repeats.
template <typename T>
void CompareScalar(const LocalTensor<uint8_t> &to, const LocalTensor<T> &from, T scalar, CMPMODE mode,
                   uint32_t count) {
  model::Machine &machine = model::It();
  machine.Begin(model::V, "CompareScalar");
  model::CheckCount(int32_t(count));
  size_t bytes = count * sizeof(T);
  if (bytes % model::kRepeatBytes != 0) {
    machine.Violate("%zu bytes: not a multiple of %zu", bytes, model::kRepeatBytes);
  }
  size_t mask_bytes = (count + 7) / 8;
  model::CheckTensor(to, mask_bytes, "mask");
  model::CheckTensor(from, bytes, "source");
  machine.Reads(from.At(), bytes);
  machine.Writes(to.At(), mask_bytes);
  model::CountVector(bytes);
  memset(to.Valid(), 0, mask_bytes);
  memset(to.Data(), 0, mask_bytes);
  for (uint32_t i = 0; i < count; i++) {
    T x = from.Data()[i];
    bool holds = false;
    switch (mode) {
    case CMPMODE::LT: holds = x < scalar; break;
    case CMPMODE::GT: holds = x > scalar; break;
    case CMPMODE::EQ: holds = x == scalar; break;
    case CMPMODE::LE: holds = x <= scalar; break;
    case CMPMODE::GE: holds = x >= scalar; break;
    case CMPMODE::NE: holds = x != scalar; break;
    }
    to.Data()[i / 8] |= uint8_t(holds) << (i % 8);
    to.Valid()[i / 8] |= uint8_t(from.IsValid(i)) << (i % 8);
  }
  machine.SetTag(to.At(), mask_bytes, model::kMaskBits);
}

template <typename T>
void Select(const LocalTensor<T> &to, const LocalTensor<uint8_t> &mask, const LocalTensor<T> &from, T scalar,
            SELMODE mode, uint32_t count) {
  model::Machine &machine = model::It();
  machine.Begin(model::V, "Select");
  model::CheckCount(int32_t(count));
  if (mode != SELMODE::VSEL_TENSOR_SCALAR_MODE) {
    machine.Stop("the model selects between a tensor and a scalar");
  }
  size_t bytes = count * sizeof(T), mask_bytes = (count + 7) / 8;
  model::CheckTensor(to, bytes, "destination");
  model::CheckTensor(from, bytes, "source");
  model::CheckTensor(mask, mask_bytes, "mask");
  model::CheckOverlap(to.At(), bytes, from.At(), bytes);
  model::CheckOverlap(to.At(), bytes, mask.At(), mask_bytes);
  // The family fills a block of the reserved buffer with the scalar, and points the vector unit to it.
  model::CountVector(model::kBlockBytes);
  machine.Barrier(model::V);
  machine.Barrier(model::V);
  machine.Begin(model::V, "Select");
  machine.Reads(from.At(), bytes);
  machine.Reads(mask.At(), mask_bytes);
  machine.Writes(to.At(), bytes);
  model::CountVector(bytes);
  for (uint32_t i = 0; i < count; i++) {
    bool holds = mask.Data()[i / 8] >> (i % 8) & 1;
    bool valid = (mask.Valid()[i / 8] >> (i % 8) & 1) && (!holds || from.IsValid(i));
    to.Data()[i] = holds ? from.Data()[i] : scalar;
    to.SetValid(i, valid);
  }
}

// ---- Reductions

namespace model {
constexpr int32_t kLanes = kRepeatBytes / sizeof(float);
constexpr int32_t kPair = 2; // a value, and its lane as bits

// The lanes that hold the values of pairs.
constexpr uint64_t kValueLanes = 0x5555555555555555;

inline uint64_t LowLanes(int32_t count) {
  return count >= kLanes ? ~uint64_t(0) : (uint64_t(1) << count) - 1;
}

// Reduces repeats inside an instruction that has begun: of each the greatest value among some lanes, and the
// lowest lane that holds it.
inline void ReduceRepeats(const LocalTensor<float> &to, const LocalTensor<float> &from, uint64_t lanes,
                          int32_t repeats) {
  Machine &machine = It();
  size_t pair_bytes = kPair * sizeof(float);
  CheckTensor(from, (repeats - 1) * kRepeatBytes + (64 - __builtin_clzll(lanes)) * sizeof(float), "source");
  if (to.At() % pair_bytes != 0) {
    machine.Violate("destination begins at UB byte %zu: not a multiple of %zu", to.At(), pair_bytes);
  }
  if (repeats * pair_bytes > to.Bytes()) {
    machine.Stop("destination: %zu bytes of a tensor of %zu", repeats * pair_bytes, to.Bytes());
  }
  size_t read = (repeats - 1) * kRepeatBytes + (64 - __builtin_clzll(lanes)) * sizeof(float);
  CheckOverlap(to.At(), repeats * pair_bytes, from.At(), read);
  machine.Reads(from.At(), read);
  CountVector(repeats * kRepeatBytes);
  for (int32_t repeat = 0; repeat < repeats; repeat++) {
    LocalTensor<float> of = from[repeat * kLanes];
    int32_t best = -1;
    for (int32_t lane = 0; lane < kLanes; lane++) {
      if ((lanes >> lane & 1) == 0) {
        continue;
      }
      float value = of.Data()[lane];
      int32_t element = repeat * kLanes + lane;
      if (!of.IsValid(lane)) {
        machine.Violate("element %d is dummy data", element);
        break;
      }
      if (value != value) {
        machine.Violate("element %d is not a number", element);
        break;
      }
      if (machine.HasTag(of.At() + lane * sizeof(float), sizeof(float), kIndexBits)) {
        machine.Violate("element %d holds the bits of an index, not a number", element);
        break;
      }
      if (best < 0 || value > of.Data()[best]) {
        best = lane;
      }
    }
    best = best < 0 ? 0 : best;
    float value = of.Data()[best];
    LocalTensor<float> pair = to[repeat * kPair];
    machine.Writes(pair.At(), pair_bytes);
    pair.Data()[0] = value;
    memcpy(pair.Data() + 1, &best, sizeof best);
    memset(pair.Valid(), 0xff, pair_bytes);
    machine.SetTag(pair.At() + sizeof(float), sizeof(float), kIndexBits);
  }
}

// What the scalar unit reads of a pair.
inline float ValueOf(const LocalTensor<float> &pair) { return pair.GetValue(0); }
inline uint32_t LaneOf(const LocalTensor<float> &pair) {
  return pair.ReinterpretCast<uint32_t>().GetValue(1);
}

// The scalar unit writes a result; vectors and copies may use it.
inline void WritePair(const LocalTensor<float> &to, float value, uint32_t index) {
  Machine &machine = It();
  to.SetValue(0, value);
  to.ReinterpretCast<uint32_t>().SetValue(1, index);
  machine.SetTag(to.At() + sizeof(float), sizeof(float), kIndexBits);
  machine.Order(S, V);
  machine.Order(S, MTE3);
}

// The greatest of whole repeats and its index, in rounds that each leave a pair for every repeat.
inline void ReduceWholeRepeats(const LocalTensor<float> &to, const LocalTensor<float> &from,
                               const LocalTensor<float> &scratch, int32_t repeats) {
  Machine &machine = It();
  auto begin = [&] { machine.Begin(V, "ReduceMax"); };
  auto next = [](int32_t end) { return (end + 7) / 8 * 8; };
  begin();
  if (repeats == 1) {
    ReduceRepeats(to, from, ~uint64_t(0), 1);
    return;
  }
  ReduceRepeats(scratch, from, ~uint64_t(0), repeats);
  machine.Barrier(V);
  LocalTensor<float> first = scratch, second = scratch[next(repeats * kPair)];
  int32_t full = repeats * kPair / kLanes, left = repeats * kPair % kLanes, pairs = full + (left > 0);
  begin();
  if (full > 0) {
    ReduceRepeats(second, first, kValueLanes, full);
  }
  if (left > 0) {
    ReduceRepeats(second[full * kPair], first[full * kLanes], kValueLanes & LowLanes(left), 1);
  }
  machine.Barrier(V);
  uint32_t lane = 0; // of the greatest in the second round
  if (pairs > 1) {
    LocalTensor<float> third = scratch[next(next(repeats * kPair) + pairs * kPair)];
    begin();
    ReduceRepeats(third, second, kValueLanes & LowLanes(pairs * kPair), 1);
    machine.Order(V, S);
    lane = LaneOf(third);
  } else {
    machine.Order(V, S);
  }
  float value = ValueOf(second[lane]);
  uint32_t repeat = lane / kPair * (kLanes / kPair) + LaneOf(second[lane]) / kPair;
  WritePair(to, value, repeat * kLanes + LaneOf(first[repeat * kPair]));
}
} // namespace model

enum class ReduceOrder { ORDER_VALUE_INDEX, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX };

// Of each repeat the greatest value among the lanes of a mask, and its lane as bits: one instruction.
inline void WholeReduceMax(const LocalTensor<float> &to, const LocalTensor<float> &from,
                           const uint64_t lanes[], int32_t repeats, int32_t to_stride, int32_t block_stride,
                           int32_t from_stride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {
  model::Machine &machine = model::It();
  machine.Begin(model::V, "WholeReduceMax");
  if (repeats < 1 || repeats > 255) {
    machine.Stop("%d repeats: 1 to 255", repeats);
  }
  if (lanes[0] == 0 || lanes[1] != 0) {
    machine.Stop("a mask of no lanes, or of more than a repeat of floats has");
  }
  if (to_stride != 1 || block_stride != 1 || from_stride != 8 || order != ReduceOrder::ORDER_VALUE_INDEX) {
    machine.Stop("the model reduces whole repeats, one behind the other, to pairs of value and lane");
  }
  model::ReduceRepeats(to, from, lanes[0], repeats);
}
inline void WholeReduceMax(const LocalTensor<float> &to, const LocalTensor<float> &from, int32_t lanes,
                           int32_t repeats, int32_t to_stride, int32_t block_stride, int32_t from_stride,
                           ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {
  if (lanes < 1 || lanes > model::kLanes) {
    model::It().Stop("%d lanes: 1 to %d", lanes, model::kLanes);
  }
  uint64_t low[2] = {model::LowLanes(lanes), 0};
  WholeReduceMax(to, from, low, repeats, to_stride, block_stride, from_stride, order);
}

// Bytes of scratch that ReduceMax with an index needs: the pairs of each round from a block's beginning on.
inline size_t ReduceScratchBytes(int32_t count) {
  size_t left = count, all = 0;
  for (int round = 0; round < 3; round++) {
    left = (left + model::kLanes - 1) / model::kLanes * model::kPair;
    all += model::RoundUp(left * sizeof(float));
  }
  return all;
}

// Writes the greatest value and, as bits, the lowest index that holds it: on the family a call of several
// reductions, whose last step is the scalar unit's. What is left of whole repeats is reduced by itself.
inline void ReduceMax(const LocalTensor<float> &to, const LocalTensor<float> &from,
                      const LocalTensor<float> &scratch, int32_t count, bool with_index) {
  model::Machine &machine = model::It();
  machine.Begin(model::V, "ReduceMax");
  model::CheckCount(count);
  if (!with_index) {
    machine.Stop("the model reduces with an index");
  }
  size_t bytes = count * sizeof(float), scratch_bytes = ReduceScratchBytes(count);
  model::CheckTensor(from, bytes, "source");
  model::CheckTensor(to, model::kPair * sizeof(float), "destination");
  if (scratch_bytes > scratch.Bytes()) {
    machine.Stop("scratch of %zu bytes: %zu needed", scratch.Bytes(), scratch_bytes);
  }
  model::CheckTensor(scratch, scratch_bytes, "scratch");
  model::CheckOverlap(scratch.At(), scratch_bytes, from.At(), bytes);
  model::CheckOverlap(scratch.At(), scratch_bytes, to.At(), model::kPair * sizeof(float));
  int32_t whole = count / model::kLanes, rest = count % model::kLanes;
  if (whole == 0) {
    model::ReduceRepeats(to, from, model::LowLanes(rest), 1);
    return;
  }
  model::ReduceWholeRepeats(to, from, scratch, whole);
  if (rest == 0) {
    return;
  }
  machine.Order(model::V, model::S);
  float body = model::ValueOf(to);
  uint32_t body_index = model::LaneOf(to);
  // The scalar unit has what it read before the next instruction is issued: no event in between.
  model::Machine::Knowledge read;
  machine.Snapshot(model::S, read);
  machine.Learn(model::V, read);
  machine.Begin(model::V, "ReduceMax");
  model::ReduceRepeats(to, from[whole * model::kLanes], model::LowLanes(rest), 1);
  machine.Order(model::V, model::S);
  float tail = model::ValueOf(to);
  uint32_t tail_index = whole * model::kLanes + model::LaneOf(to);
  scratch.SetValue(0, body);
  scratch.SetValue(1, tail);
  machine.Order(model::S, model::V);
  machine.Begin(model::V, "ReduceMax");
  model::ReduceRepeats(to, scratch, model::LowLanes(2), 1);
  machine.Order(model::V, model::S);
  model::WritePair(to, model::ValueOf(to), model::LaneOf(to) == 1 ? tail_index : body_index);
}

} // namespace AscendC
