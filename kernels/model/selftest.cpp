// Breaks each rule of the model once, by itself, and keeps it once. The model must name the broken rule and
// report nothing where the rule is kept.
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernel_operator.h"

using namespace AscendC;
using br_model::Machine;
using br_model::S;
using br_model::V;

namespace {

alignas(64) float input[1024];
alignas(64) float output[1024];
constexpr DataCopyPadExtParams<float> kNoPad{false, 0, 0, 0};

// A pipe with four buffers of 256 floats; vectors have filled the first.
struct Bench {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffers[4];
  LocalTensor<float> a, b, c, d;
  GlobalTensor<float> in, out;

  Bench() {
    for (auto &buffer : buffers) {
      pipe.InitBuffer(buffer, 1024);
    }
    a = buffers[0].Get<float>();
    b = buffers[1].Get<float>();
    c = buffers[2].Get<float>();
    d = buffers[3].Get<float>();
    in.SetGlobalBuffer(input, 1024);
    out.SetGlobalBuffer(output, 1024);
    Duplicate(a, 1.0f, 256);
    PipeBarrier<PIPE_V>();
  }
  template <HardEvent event> void Order() {
    SetFlag<event>(pipe.FetchEventID(event));
    WaitFlag<event>(pipe.FetchEventID(event));
  }
  DataCopyExtParams Bytes(uint32_t bytes) { return {1, bytes, 0, 0, 0}; }
};

// As many values as a run may have, and what ReduceMax needs beside them.
struct Reduction {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffers[3];
  LocalTensor<float> values, scratch, answer;

  Reduction() {
    pipe.InitBuffer(buffers[0], 6144 * sizeof(float));
    pipe.InitBuffer(buffers[1], 1024);
    pipe.InitBuffer(buffers[2], 32);
    values = buffers[0].Get<float>();
    scratch = buffers[1].Get<float>();
    answer = buffers[2].Get<float>();
  }
};

struct Rule {
  const char *says; // null where the model must report nothing
  std::function<void()> body;
};

const std::vector<Rule> kRules = {
    {nullptr,
     [] { Bench it; Adds(it.b, it.a, 1.0f, 256); PipeBarrier<PIPE_V>(); Muls(it.b, it.b, 2.0f, 256); }},
    {"read after write on pipe V",
     [] { Bench it; Adds(it.b, it.a, 1.0f, 256); Muls(it.c, it.b, 2.0f, 256); }},
    {"write after write on pipe V", [] { Bench it; Duplicate(it.b, 1.0f, 256); Duplicate(it.b, 2.0f, 256); }},
    {"write after read on pipe V", [] { Bench it; Adds(it.b, it.a, 1.0f, 256); Duplicate(it.a, 2.0f, 256); }},
    {nullptr, [] { Bench it; Adds(it.b, it.a, 1.0f, 256); Adds(it.c, it.a, 1.0f, 256); }},
    {"pipe S does not know that pipe V", [] { Bench it; it.a.GetValue(0); }},
    {nullptr, [] { Bench it; it.Order<HardEvent::V_S>(); it.a.GetValue(0); }},
    // Knowledge passes on: V knows what MTE2 did, and S knows what V knows.
    {nullptr,
     [] {
       Bench it;
       DataCopyPad(it.b, it.in, it.Bytes(1024), kNoPad);
       it.Order<HardEvent::MTE2_V>();
       it.Order<HardEvent::V_S>();
       it.b.GetValue(0);
     }},
    // An event covers only the instructions before it.
    {"pipe S does not know that pipe V",
     [] {
       Bench it;
       SetFlag<HardEvent::V_S>(0);
       Adds(it.b, it.a, 1.0f, 256);
       WaitFlag<HardEvent::V_S>(0);
       it.b.GetValue(0);
     }},
    {"pipe MTE2 does not know that pipe V", [] { Bench it; DataCopyPad(it.a, it.in, it.Bytes(64), kNoPad); }},
    {"pipe MTE3 does not know that pipe V", [] { Bench it; DataCopyPad(it.out, it.a, it.Bytes(64)); }},
    {"is set twice",
     [] { Bench it; SetFlag<HardEvent::V_S>(0); SetFlag<HardEvent::V_S>(0); WaitFlag<HardEvent::V_S>(0); }},
    {"was never set", [] { Bench it; WaitFlag<HardEvent::V_S>(1); }},
    {"nobody waited for it", [] { Bench it; SetFlag<HardEvent::V_S>(0); }},
    {"event id 8", [] { Bench it; SetFlag<HardEvent::V_S>(8); }},
    {"not a multiple of 32", [] { Bench it; Adds(it.b, it.a[1], 1.0f, 8); }},
    {"1028 bytes of a tensor of 1024", [] { Bench it; Adds(it.b, it.a, 1.0f, 257); }},
    {"overlap in part", [] { Bench it; Adds(it.a, it.a[8], 1.0f, 200); }},
    {"0 elements", [] { Bench it; Adds(it.b, it.a, 1.0f, 0); }},
    {"not a multiple of 256",
     [] { Bench it; CompareScalar(it.b.ReinterpretCast<uint8_t>(), it.a, 0.0f, CMPMODE::GT, 63); }},
    {"holds mask bits",
     [] {
       Bench it;
       CompareScalar(it.b.ReinterpretCast<uint8_t>(), it.a, 0.0f, CMPMODE::GT, 64);
       it.Order<HardEvent::V_S>();
       it.b.ReinterpretCast<uint8_t>().GetValue(0);
     }},
    // Unwritten bytes may pass through vectors, but their results may not leave the buffer.
    {nullptr, [] { Bench it; Add(it.c, it.a, it.b, 256); }},
    {"is dummy data", [] { Bench it; ReduceMax(it.c, it.b, it.d, 256, true); }},
    {"is dummy data",
     [] {
       Bench it;
       Add(it.b, it.a, it.b, 256);
       PipeBarrier<PIPE_V>();
       ReduceMax(it.c, it.b, it.d, 256, true);
     }},
    {"holds dummy data", [] { Bench it; it.b.GetValue(3); }},
    {"is dummy data", [] { Bench it; DataCopyPad(it.out, it.b, it.Bytes(64)); }},
    {"element 3 is dummy data",
     [] {
       Bench it;
       DataCopyPad(it.b, it.in, it.Bytes(12), kNoPad);
       it.Order<HardEvent::MTE2_V>();
       ReduceMax(it.c, it.b, it.d, 8, true);
     }},
    {nullptr,
     [] {
       Bench it;
       DataCopyPad(it.b, it.in, it.Bytes(12), DataCopyPadExtParams<float>{true, 0, 5, 0.0f});
       it.Order<HardEvent::MTE2_V>();
       ReduceMax(it.c, it.b, it.d, 8, true);
     }},
    {"up to 32 bytes",
     [] { Bench it; DataCopyPad(it.b, it.in, it.Bytes(12), DataCopyPadExtParams<float>{true, 0, 9, 0.0f}); }},
    // A mask computed from dummy data selects dummy data.
    {"is dummy data",
     [] {
       Bench it;
       CompareScalar(it.c.ReinterpretCast<uint8_t>(), it.b, 0.0f, CMPMODE::GT, 64);
       PipeBarrier<PIPE_V>();
       Select(it.a, it.c.ReinterpretCast<uint8_t>(), it.a, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
       PipeBarrier<PIPE_V>();
       ReduceMax(it.b, it.a, it.d, 64, true);
     }},
    {"holds the bits of an index",
     [] {
       Bench it;
       ReduceMax(it.b, it.a, it.d, 256, true);
       it.Order<HardEvent::V_S>();
       it.b.GetValue(1);
     }},
    // The greatest of as many values as there are, and its lowest index, through one, two and three rounds.
    {nullptr,
     [] {
       Reduction it;
       for (int32_t count : {1, 63, 64, 65, 256, 1000, 4096, 4100, 6144}) {
         for (int32_t at = 0; at < count; at++) {
           it.values.SetValue(at, float(at * 37 % 501));
         }
         uint32_t best = 0;
         for (int32_t at = 0; at < count; at++) {
           best = at * 37 % 501 > int32_t(best) * 37 % 501 ? at : best;
         }
         Machine &machine = Machine::Get();
         machine.Order(S, V);
         ReduceMax(it.answer, it.values, it.scratch, count, true);
         machine.Order(V, S);
         uint32_t found = it.answer.ReinterpretCast<uint32_t>().GetValue(1);
         if (found != best || it.answer.GetValue(0) != float(best * 37 % 501)) {
           machine.Violate("%d values: index %u, expected %u", count, found, best);
         }
         machine.Order(S, V);
       }
     }},
    // What the call becomes: reductions, barriers, events.
    {nullptr,
     [] {
       Reduction it;
       Machine &machine = Machine::Get();
       Duplicate(it.values, 1.0f, 4096);
       struct Cost {
         int32_t count;
         uint64_t reductions, barriers, events;
       };
       for (Cost of : {Cost{64, 1, 0, 0}, Cost{512, 2, 2, 3}, Cost{4096, 3, 2, 3}, Cost{100, 3, 0, 6}}) {
         machine.Barrier(br_model::kAll);
         Machine::Counts before = machine.counts;
         ReduceMax(it.answer, it.values, it.scratch, of.count, true);
         const Machine::Counts &after = machine.counts;
         if (after.vector_instructions - before.vector_instructions != of.reductions ||
             after.barriers - before.barriers != of.barriers || after.events - before.events != of.events) {
           machine.Violate("%d values: another cost", of.count);
         }
       }
     }},
    // The index is the scalar unit's: vectors may use the result, for the call has told them.
    {nullptr,
     [] {
       Bench it;
       ReduceMax(it.b, it.a, it.d, 256, true);
       Adds(it.c, it.b, 1.0f, 1);
     }},
    {"pipe S does not know that pipe V",
     [] { Bench it; ReduceMax(it.b, it.a, it.d, 64, true); it.b.GetValue(0); }},
    {"holds the bits of an index",
     [] {
       Bench it;
       ReduceMax(it.b, it.a, it.d, 256, true);
       ReduceMax(it.c, it.b, it.d, 2, true);
     }},
    // Results beyond the greatest finite value, in either mode.
    {nullptr,
     [] {
       Bench it;
       Machine &machine = Machine::Get();
       auto greatest = [&](bool saturates) {
         machine.saturates = saturates;
         Muls(it.b, it.a, 3e38f, 64);
         PipeBarrier<PIPE_V>();
         Add(it.b, it.b, it.b, 64);
         machine.saturates = false;
         it.Order<HardEvent::V_S>();
         float value = it.b.GetValue(0);
         it.Order<HardEvent::S_V>();
         return value;
       };
       if (!std::isinf(greatest(false)) || greatest(true) != std::numeric_limits<float>::max()) {
         machine.Violate("infinity and the greatest finite value were expected");
       }
     }},
    {"is not a number",
     [] {
       Bench it;
       Duplicate(it.b, std::numeric_limits<float>::quiet_NaN(), 64);
       PipeBarrier<PIPE_V>();
       ReduceMax(it.c, it.b, it.d, 64, true);
     }},
    {"scratch of 32 bytes: 96 needed",
     [] {
       Bench it;
       TBuf<TPosition::VECCALC> small;
       it.pipe.InitBuffer(small, 32);
       ReduceMax(it.b, it.a, small.Get<float>(), 256, true);
     }},
    {"rounds nothing",
     [] {
       Bench it;
       Duplicate(it.b.ReinterpretCast<int16_t>(), int16_t(1), 64);
       PipeBarrier<PIPE_V>();
       Cast(it.c, it.b.ReinterpretCast<int16_t>(), RoundMode::CAST_RINT, 64);
     }},
    {"not a multiple of 32", [] { TPipe pipe; TBuf<TPosition::VECCALC> odd; pipe.InitBuffer(odd, 40); }},
    {"of the unified buffer are taken",
     [] { Bench it; TBuf<TPosition::VECCALC> large; it.pipe.InitBuffer(large, 184 * 1024); }},
    {"more than 64 buffers",
     [] {
       TPipe pipe;
       std::vector<TBuf<TPosition::VECCALC>> many(65);
       for (auto &buffer : many) {
         pipe.InitBuffer(buffer, 32);
       }
     }},
    {"never initialised", [] { TBuf<TPosition::VECCALC> buffer; buffer.Get<float>(); }},
    {"element 256 of a tensor of 256", [] { Bench it; it.b.SetValue(256, 0.0f); }},
    {nullptr,
     [] {
       Bench it;
       TQue<TPosition::VECIN, 2> queue;
       it.pipe.InitBuffer(queue, 2, 1024);
       for (int turn = 0; turn < 4; turn++) {
         auto tensor = queue.AllocTensor<float>();
         DataCopyPad(tensor, it.in, it.Bytes(1024), kNoPad);
         queue.EnQue(tensor);
         tensor = queue.DeQue<float>();
         Adds(it.b, tensor, 1.0f, 256);
         queue.FreeTensor(tensor);
         PipeBarrier<PIPE_V>();
       }
     }},
    // Freed before its last reader: the next copy knows only of instructions before the free.
    {"pipe MTE2 does not know that pipe V",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 1, 1024);
       for (int turn = 0; turn < 2; turn++) {
         auto tensor = queue.AllocTensor<float>();
         DataCopyPad(tensor, it.in, it.Bytes(1024), kNoPad);
         queue.EnQue(tensor);
         tensor = queue.DeQue<float>();
         queue.FreeTensor(tensor);
         Adds(it.b, tensor, 1.0f, 256);
         PipeBarrier<PIPE_V>();
       }
     }},
    // The event that a copy is to wait for is passed again before it has: the second copy may not have begun.
    {"may not have waited for it yet",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 2> queue;
       it.pipe.InitBuffer(queue, 2, 1024);
       auto fetch = [&] {
         auto tensor = queue.AllocTensor<float>();
         DataCopyPad(tensor, it.in, it.Bytes(1024), kNoPad);
         queue.EnQue(tensor);
       };
       auto use = [&](const LocalTensor<float> &to) {
         auto tensor = queue.DeQue<float>();
         Adds(to, tensor, 1.0f, 256);
         queue.FreeTensor(tensor);
       };
       fetch();
       fetch();
       use(it.b);
       fetch();
       use(it.c);
     }},
    {"all 1 buffers of the queue are in use",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 1, 1024);
       queue.AllocTensor<float>();
       queue.AllocTensor<float>();
     }},
    {"holds its depth of 1",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 2, 1024);
       auto first = queue.AllocTensor<float>(), second = queue.AllocTensor<float>();
       queue.EnQue(first);
       queue.EnQue(second);
     }},
    {"DeQue of an empty queue",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 1, 1024);
       queue.DeQue<float>();
     }},
    {"was never freed",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 1, 1024);
       queue.AllocTensor<float>();
     }},
    {"of another buffer",
     [] {
       Bench it;
       TQue<TPosition::VECIN, 1> queue;
       it.pipe.InitBuffer(queue, 1, 1024);
       queue.FreeTensor(it.a);
     }},
    {"outside of what was allocated",
     [] {
       Bench it;
       GlobalTensor<float> beyond;
       beyond.SetGlobalBuffer(input + 1020);
       DataCopyPad(it.b, beyond, it.Bytes(64), kNoPad);
     }},
    {"32 bytes of a global tensor of 16",
     [] { Bench it; DataCopyPad(it.b, it.in[1020], it.Bytes(32), kNoPad); }},
    {"has written in this launch",
     [] {
       Bench it;
       it.Order<HardEvent::V_MTE3>();
       DataCopyPad(it.out, it.a, it.Bytes(64));
       DataCopyPad(it.b, it.out, it.Bytes(64), kNoPad);
     }},
    {"has written in this launch",
     [] {
       Bench it;
       it.Order<HardEvent::V_MTE3>();
       DataCopyPad(it.out, it.a, it.Bytes(64));
       DataCopyPad(it.out[15], it.a, it.Bytes(64));
     }},
};

} // namespace

int main() {
  br_model::Machine &machine = br_model::Machine::Get();
  int failed = 0;
  for (size_t at = 0; at < kRules.size(); at++) {
    const Rule &rule = kRules[at];
    auto range = [](float *of) { return br_model::Range{uintptr_t(of), uintptr_t(of) + sizeof input}; };
    machine.BeginLaunch(1, {range(input), range(output)});
    machine.BeginBlock(0);
    try {
      rule.body();
      machine.EndBlock();
    } catch (const br_model::Stopped &) {
    }
    const std::vector<std::string> &found = machine.Violations();
    bool holds = rule.says == nullptr ? found.empty()
                                      : !found.empty() && found[0].find(rule.says) != std::string::npos;
    if (!holds) {
      printf("rule %zu: expected %s, found %s\n", at, rule.says == nullptr ? "nothing" : rule.says,
             found.empty() ? "nothing" : found[0].c_str());
      failed++;
    }
  }
  printf("%zu passed, %d failed\n", kRules.size() - failed, failed);
  return failed == 0 ? 0 : 1;
}
