#include "machine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace br_model {

namespace {
constexpr size_t kMostViolations = 16;

std::string Format(const char *format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}
} // namespace

const char *NameOf(Pipe pipe) {
  static const char *const names[] = {"S", "V", "MTE2", "MTE3"};
  return pipe < kPipes ? names[pipe] : "ALL";
}

Machine &Machine::Get() {
  static Machine machine;
  return machine;
}

Machine::Machine() : cells_(kUbBytes / kBlockBytes) {
  ub_ = static_cast<uint8_t *>(aligned_alloc(kRepeatBytes, kUbBytes));
  valid_ = static_cast<uint8_t *>(aligned_alloc(kRepeatBytes, kUbBytes));
  tags_ = static_cast<uint8_t *>(aligned_alloc(kRepeatBytes, kUbBytes));
  if (ub_ == nullptr || valid_ == nullptr || tags_ == nullptr) {
    abort();
  }
}

void Machine::BeginLaunch(uint32_t blocks, std::vector<Range> ranges) {
  blocks_ = blocks;
  ranges_ = std::move(ranges);
  written_.clear();
  written_from_ = UINTPTR_MAX;
  written_to_ = 0;
  violations_.clear();
  counts = Counts{};
}

void Machine::BeginBlock(uint32_t block) {
  block_ = block;
  used_ = 0;
  buffers = 0;
  owed.clear();
  // A core finds the bytes of an earlier kernel in its buffer.
  memset(ub_, 0xa5, kUbBytes);
  memset(valid_, 0, kUbBytes);
  memset(tags_, kPlain, kUbBytes);
  std::fill(cells_.begin(), cells_.end(), Cell{});
  memset(issued_, 0, sizeof issued_);
  memset(knows_, 0, sizeof knows_);
  for (auto &from : flags_) {
    for (auto &to : from) {
      for (Flag &flag : to) {
        flag = Flag{};
      }
    }
  }
  for (auto &from : queue_events_) {
    for (auto &to : from) {
      std::fill(std::begin(to), std::end(to), QueueEvent{});
    }
  }
  instruction_ = "the beginning";
}

void Machine::EndBlock() {
  counts.ub_bytes = std::max<uint64_t>(counts.ub_bytes, used_);
  instruction_ = "the end";
  for (int from = 0; from < kPipes; from++) {
    for (int to = 0; to < kPipes; to++) {
      for (int id = 0; id < kEvents; id++) {
        if (flags_[from][to][id].set) {
          Violate("event %s_%s %d is set and nobody waited for it", NameOf(Pipe(from)), NameOf(Pipe(to)), id);
        }
      }
    }
  }
  for (const std::string &what : owed) {
    Violate("%s", what.c_str());
  }
}

void Machine::Violate(const char *format, ...) {
  if (violations_.size() >= kMostViolations) {
    return;
  }
  va_list arguments;
  va_start(arguments, format);
  std::string text = Format(format, arguments);
  va_end(arguments);
  violations_.push_back("block " + std::to_string(block_) + ", " + instruction_ + ": " + text);
}

void Machine::Stop(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = Format(format, arguments);
  va_end(arguments);
  violations_.insert(violations_.begin(),
                     "block " + std::to_string(block_) + ", " + instruction_ + ": " + text);
  throw Stopped{};
}

size_t Machine::TakeUb(size_t bytes, const char *what) {
  instruction_ = "InitBuffer";
  if (bytes == 0 || bytes % kBlockBytes != 0) {
    Violate("%s of %zu bytes: not a multiple of %zu", what, bytes, kBlockBytes);
    bytes = (bytes / kBlockBytes + 1) * kBlockBytes;
  }
  if (++buffers > kMaxBuffers) {
    Violate("more than %d buffers", kMaxBuffers);
  }
  size_t at = used_;
  if (used_ + bytes > kUbBytes - kReservedBytes) {
    Stop("%s of %zu bytes: %zu of %zu bytes of the unified buffer are taken", what, bytes, used_,
         kUbBytes - kReservedBytes);
  }
  used_ += bytes;
  return at;
}

void Machine::SetTag(size_t at, size_t bytes, Tag tag) { memset(tags_ + at, tag, bytes); }

bool Machine::HasTag(size_t at, size_t bytes, Tag tag) const {
  return std::any_of(tags_ + at, tags_ + at + bytes, [tag](uint8_t found) { return found == tag; });
}

void Machine::Begin(Pipe pipe, const char *name) {
  pipe_ = pipe;
  instruction_ = name;
  issued_[pipe]++;
}

void Machine::Hazard(const char *kind, size_t at, Pipe other) {
  if (other == pipe_) {
    Violate("%s on pipe %s at UB byte %zu without a barrier of that pipe in between", kind, NameOf(pipe_),
            at);
  } else {
    Violate("%s at UB byte %zu: pipe %s does not know that pipe %s has finished (no event)", kind, at,
            NameOf(pipe_), NameOf(other));
  }
}

void Machine::Reads(size_t at, size_t bytes) {
  uint64_t now = issued_[pipe_];
  for (size_t cell = at / kBlockBytes; cell * kBlockBytes < at + bytes; cell++) {
    Cell &of = cells_[cell];
    // Scalar instructions wait for each other.
    bool own = of.writer == S && pipe_ == S;
    if (of.written > knows_[pipe_][of.writer] && !own) {
      Hazard("read after write", cell * kBlockBytes, of.writer);
      of.written = 0;
    }
    of.read[pipe_] = now;
  }
}

void Machine::Writes(size_t at, size_t bytes) {
  uint64_t now = issued_[pipe_];
  for (size_t cell = at / kBlockBytes; cell * kBlockBytes < at + bytes; cell++) {
    Cell &of = cells_[cell];
    bool own = of.writer == pipe_ && (pipe_ == S || of.written == now);
    if (of.written > knows_[pipe_][of.writer] && !own) {
      Hazard("write after write", cell * kBlockBytes, of.writer);
    }
    for (int reader = 0; reader < kPipes; reader++) {
      bool same = reader == pipe_ && (pipe_ == S || of.read[reader] == now);
      if (of.read[reader] > knows_[pipe_][reader] && !same) {
        Hazard("write after read", cell * kBlockBytes, Pipe(reader));
      }
      of.read[reader] = 0;
    }
    of.written = now;
    of.writer = pipe_;
  }
  memset(tags_ + at, kPlain, bytes);
}

void Machine::CheckGlobal(uintptr_t from, size_t bytes, const char *kind) {
  for (const Range &range : ranges_) {
    if (from >= range.from && from + bytes <= range.to) {
      return;
    }
  }
  Stop("%s of %zu bytes of global memory outside of what was allocated", kind, bytes);
}

void Machine::ReadsGlobal(const void *address, size_t bytes) {
  uintptr_t from = reinterpret_cast<uintptr_t>(address);
  CheckGlobal(from, bytes, "read");
  if (from < written_to_ && from + bytes > written_from_) {
    for (const Written &other : written_) {
      if (from < other.to && from + bytes > other.from) {
        Violate("reads global memory that block %u has written in this launch", other.block);
        return;
      }
    }
  }
}

void Machine::WritesGlobal(const void *address, size_t bytes) {
  uintptr_t from = reinterpret_cast<uintptr_t>(address);
  CheckGlobal(from, bytes, "write");
  for (const Written &other : written_) {
    if (from < other.to && from + bytes > other.from) {
      Violate("writes global memory that block %u has written in this launch", other.block);
      return;
    }
  }
  written_.push_back({from, from + bytes, block_});
  written_from_ = std::min(written_from_, from);
  written_to_ = std::max(written_to_, from + bytes);
}

void Machine::Barrier(Pipe pipe) {
  counts.barriers++;
  if (pipe != kAll) {
    knows_[pipe][pipe] = issued_[pipe];
    return;
  }
  for (auto &knows : knows_) {
    std::copy(std::begin(issued_), std::end(issued_), std::begin(knows));
  }
}

void Machine::Snapshot(Pipe from, Knowledge &knowledge) const {
  std::copy(std::begin(knows_[from]), std::end(knows_[from]), std::begin(knowledge));
  knowledge[from] = issued_[from];
}

void Machine::Learn(Pipe to, const Knowledge &knowledge) {
  for (int of = 0; of < kPipes; of++) {
    knows_[to][of] = std::max(knows_[to][of], knowledge[of]);
  }
}

void Machine::Order(Pipe from, Pipe to) {
  counts.events++;
  Knowledge knowledge;
  Snapshot(from, knowledge);
  Learn(to, knowledge);
}

int Machine::TakeEvent(Pipe from, Pipe to) {
  counts.events++;
  for (int id = 0; id < kEvents; id++) {
    QueueEvent &event = queue_events_[from][to][id];
    if (event.taken) {
      continue;
    }
    if (event.waited > knows_[from][to]) {
      Violate("event %s_%s %d of a queue is set again, and pipe %s may not have waited for it yet",
              NameOf(from), NameOf(to), id, NameOf(to));
    }
    event.taken = true;
    return id;
  }
  Stop("all %d events %s_%s are taken by queues", kEvents, NameOf(from), NameOf(to));
}

void Machine::GiveEvent(Pipe from, Pipe to, int id) {
  queue_events_[from][to][id] = {false, issued_[to] + 1};
}

void Machine::SetFlag(Pipe from, Pipe to, int id) {
  instruction_ = "SetFlag";
  if (id < 0 || id >= kEvents) {
    Stop("event id %d: there are %d", id, kEvents);
  }
  Flag &flag = flags_[from][to][id];
  if (flag.set) {
    Violate("event %s_%s %d is set twice", NameOf(from), NameOf(to), id);
  }
  flag.set = true;
  counts.events++;
  Snapshot(from, flag.knowledge);
}

void Machine::WaitFlag(Pipe from, Pipe to, int id) {
  instruction_ = "WaitFlag";
  if (id < 0 || id >= kEvents) {
    Stop("event id %d: there are %d", id, kEvents);
  }
  Flag &flag = flags_[from][to][id];
  if (!flag.set) {
    Stop("event %s_%s %d was never set: the core waits for ever", NameOf(from), NameOf(to), id);
  }
  flag.set = false;
  Learn(to, flag.knowledge);
}

} // namespace br_model
