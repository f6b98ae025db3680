// The machine behind the model: the unified buffer of one vector core, its pipes, and the checks on both.
//
// Instructions run immediately and in program order. For every 32 bytes of the unified buffer the machine
// remembers which pipe wrote them last and which pipes have read them since. For every pipe it remembers how
// far the pipe knows each other pipe to be; barriers and pairs of events pass that knowledge on. An access
// that the pipe's knowledge does not cover is a violation, though program order makes it harmless here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace br_model {

enum Pipe : uint8_t { S, V, MTE2, MTE3, kPipes, kAll };

const char *NameOf(Pipe pipe);

constexpr size_t kUbBytes = 192 * 1024;
constexpr size_t kReservedBytes = 8 * 1024; // Select and the compiler use them
constexpr size_t kBlockBytes = 32;
constexpr size_t kRepeatBytes = 256;
constexpr int kEvents = 8;
constexpr int kMaxBuffers = 64;

// What bytes hold, where reading them as something else is a violation.
enum Tag : uint8_t { kPlain = 0, kIndexBits = 1, kMaskBits = 2 };

// Thrown when a block cannot go on.
struct Stopped {};

struct Range {
  uintptr_t from;
  uintptr_t to;
};

class Machine {
 public:
  static Machine &Get();

  void BeginLaunch(uint32_t blocks, std::vector<Range> ranges);
  void BeginBlock(uint32_t block);
  void EndBlock();
  const std::vector<std::string> &Violations() const { return violations_; }

  // Notes a violation; the arguments are those of printf.
  void Violate(const char *format, ...) __attribute__((format(printf, 2, 3)));
  [[noreturn]] void Stop(const char *format, ...) __attribute__((format(printf, 2, 3)));

  uint32_t Block() const { return block_; }
  uint32_t Blocks() const { return blocks_; }

  // Memory.
  uint8_t *Ub(size_t at) { return ub_ + at; }
  uint8_t *Valid(size_t at) { return valid_ + at; }
  size_t TakeUb(size_t bytes, const char *what);
  void SetTag(size_t at, size_t bytes, Tag tag);
  bool HasTag(size_t at, size_t bytes, Tag tag) const;

  // Begins an instruction on a pipe; the calls after it note its accesses.
  void Begin(Pipe pipe, const char *name);
  void Reads(size_t at, size_t bytes);
  void Writes(size_t at, size_t bytes);
  void ReadsGlobal(const void *address, size_t bytes);
  void WritesGlobal(const void *address, size_t bytes);
  const char *Instruction() const { return instruction_; }

  void Barrier(Pipe pipe);
  void SetFlag(Pipe from, Pipe to, int id);
  void WaitFlag(Pipe from, Pipe to, int id);
  // A pair of events inside a call.
  void Order(Pipe from, Pipe to);

  // The events of queues. One is taken as it is set, the lowest that is free, and is free again as the other
  // pipe is told to wait, though that pipe may reach its wait later.
  int TakeEvent(Pipe from, Pipe to);
  void GiveEvent(Pipe from, Pipe to, int id);

  // Knowledge that a queue hands from one pipe to another.
  using Knowledge = uint64_t[kPipes];
  void Snapshot(Pipe from, Knowledge &knowledge) const;
  void Learn(Pipe to, const Knowledge &knowledge);

  // What a launch did.
  struct Counts {
    uint64_t vector_instructions = 0;
    uint64_t vector_repeats = 0;
    uint64_t copied_in_bytes = 0;
    uint64_t copied_out_bytes = 0;
    uint64_t scalar_ub_accesses = 0;
    uint64_t scalar_gm_reads = 0;
    uint64_t barriers = 0;
    uint64_t events = 0;
    uint64_t ub_bytes = 0; // the most that a block took
  };
  Counts counts;

  // Whether results beyond the greatest finite value become that value instead of infinity. A device has both
  // modes.
  bool saturates = false;

  // What must be given back by the end of a block.
  std::deque<std::string> owed;
  int buffers = 0;

 private:
  Machine();
  void Hazard(const char *kind, size_t at, Pipe other);
  void CheckGlobal(uintptr_t from, size_t bytes, const char *kind);

  struct Cell {
    uint64_t written;
    uint64_t read[kPipes];
    Pipe writer;
  };
  struct Flag {
    bool set = false;
    Knowledge knowledge = {};
  };
  struct QueueEvent {
    bool taken = false;
    uint64_t waited = 0; // the first instruction of the other pipe behind its wait
  };
  struct Written {
    uintptr_t from;
    uintptr_t to;
    uint32_t block;
  };

  uint8_t *ub_;
  uint8_t *valid_;
  uint8_t *tags_;
  std::vector<Cell> cells_;
  size_t used_ = 0;
  uint64_t issued_[kPipes] = {};
  uint64_t knows_[kPipes][kPipes] = {};
  Flag flags_[kPipes][kPipes][kEvents];
  QueueEvent queue_events_[kPipes][kPipes][kEvents];
  Pipe pipe_ = S;
  const char *instruction_ = "";
  uint32_t block_ = 0;
  uint32_t blocks_ = 0;
  std::vector<Range> ranges_;
  std::vector<Written> written_;
  uintptr_t written_from_ = UINTPTR_MAX;
  uintptr_t written_to_ = 0;
  std::vector<std::string> violations_;
};

} // namespace br_model
