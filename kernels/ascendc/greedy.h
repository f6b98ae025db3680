// The greedy picks, one after the other. A column is scored again only when it may hold the next pick.
#pragma once

#include "columns.h"

namespace br {

// Collects picks in a buffer and copies it out when it is full.
class Picks {
 public:
  __aicore__ inline void Open(TPipe *pipe, const Batch &batch, Columns &columns) {
    pipe_ = pipe;
    stage_ = columns.Stage<uint32_t>();
    out_ = batch.Answer<uint32_t>(batch.U32(offsetof(BrHeader, out_picks_at)), uint64_t(batch.max_picks) * 4);
    count = staged_ = 0;
  }

  __aicore__ inline void Put(uint32_t entry, uint32_t worker, int64_t score) {
    uint64_t bits = static_cast<uint64_t>(score);
    uint32_t at = staged_ * (sizeof(BrPick) / 4);
    stage_.SetValue(at, entry);
    stage_.SetValue(at + 1, worker);
    stage_.SetValue(at + 2, static_cast<uint32_t>(bits));
    stage_.SetValue(at + 3, static_cast<uint32_t>(bits >> 32));
    count++;
    if (++staged_ == BR_STAGE_PICKS) {
      Flush();
    }
  }

  __aicore__ inline void Flush() {
    if (staged_ == 0) {
      return;
    }
    Order<HardEvent::S_MTE3>(pipe_);
    uint32_t words = staged_ * (sizeof(BrPick) / 4);
    CopyOut(out_[uint64_t(count - staged_) * (sizeof(BrPick) / 4)], stage_, words);
    // The next pick overwrites the buffer.
    Order<HardEvent::MTE3_S>(pipe_);
    staged_ = 0;
  }

  uint32_t count;

 private:
  TPipe *pipe_;
  LocalTensor<uint32_t> stage_;
  GlobalTensor<uint32_t> out_;
  uint32_t staged_;
};

class Greedy {
 public:
  __aicore__ inline void Run(TPipe *pipe, const Batch &batch) {
    pipe_ = pipe;
    batch_ = &batch;
    loads_.Load(batch);
    columns_.Load(pipe, batch);
    scored_ = 0;
    uint32_t status = BR_STATUS_OK;
    bool ready = (batch.flags & BR_FLAG_COLUMNS_READY) != 0;
    if (batch.order == BR_ORDER_MATRIX) {
      status = Look(ready);
    }
    picks_.Open(pipe, batch, columns_);
    if (status == BR_STATUS_OK) {
      status = batch.order == BR_ORDER_MATRIX ? PickFromMatrix() : PickInTurn();
    }
    picks_.Flush();
    Answer(status);
  }

 private:
  // Picks in an order that names the worker before anything is scored: one column per pick.
  __aicore__ inline uint32_t PickInTurn() {
    for (uint32_t g = 0; g < batch_->workers; g++) {
      closed_[g] = loads_.open_slots[g] <= 0;
    }
    int64_t stop =
        batch_->order == BR_ORDER_MOST_SLOTS ? batch_->U32(offsetof(BrHeader, stop_open_slots)) : 0;
    while (loads_.open > stop && picks_.count < batch_->max_picks) {
      uint32_t worker = NextInTurn();
      if (worker == BR_NOBODY) {
        break;
      }
      Best best = columns_.Find(worker, loads_);
      scored_++;
      if (best.status != BR_STATUS_OK) {
        return best.status;
      }
      if (best.entry == BR_NOBODY) {
        // Room and pool only shrink: this worker never takes a request again.
        closed_[worker] = true;
        continue;
      }
      Admit(worker, best.entry, best.score);
      closed_[worker] = loads_.open_slots[worker] <= 0;
    }
    return BR_STATUS_OK;
  }

  __aicore__ inline uint32_t NextInTurn() const {
    uint32_t next = BR_NOBODY;
    for (uint32_t g = 0; g < batch_->workers; g++) {
      if (closed_[g]) {
        continue;
      }
      bool before = next == BR_NOBODY;
      if (!before && batch_->order == BR_ORDER_MOST_SLOTS &&
          loads_.open_slots[g] != loads_.open_slots[next]) {
        before = loads_.open_slots[g] > loads_.open_slots[next];
      } else if (!before) {
        before = loads_.cost[g] < loads_.cost[next];
      }
      if (before) {
        next = g;
      }
    }
    return next;
  }

  // Takes the best of every open column from the launch before, or leaves the columns to be scored later.
  __aicore__ inline uint32_t Look(bool ready) {
    rise_ = 0;
    LocalTensor<uint32_t> stage = columns_.Stage<uint32_t>();
    uint32_t stride = batch_->U32(offsetof(BrHeader, column_stride)) / 4;
    GlobalTensor<uint32_t> all = batch_->Answer<uint32_t>(batch_->U32(offsetof(BrHeader, out_columns_at)),
                                                          static_cast<uint64_t>(batch_->workers) * stride);
    for (uint32_t g = 0; g < batch_->workers; g++) {
      bounds_[g] = loads_.open_slots[g] > 0 ? INT64_MAX : kLeast;
      seen_at_[g] = -1;
      if (!ready || loads_.open_slots[g] <= 0) {
        continue;
      }
      CopyIn(stage, all[uint64_t(g) * stride], stride);
      Order<HardEvent::MTE2_S>(pipe_);
      Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
      for (uint32_t run = 0; run < batch_->runs; run++) {
        uint32_t at = run * (sizeof(BrColumn) / 4);
        uint64_t low = stage.GetValue(at), high = stage.GetValue(at + 1);
        Best other{static_cast<int64_t>(high << 32 | low), stage.GetValue(at + offsetof(BrColumn, entry) / 4),
                   stage.GetValue(at + offsetof(BrColumn, status) / 4)};
        if (other.status != BR_STATUS_OK) {
          return other.status;
        }
        columns_.Keep(best, other);
      }
      // The next column overwrites the buffer.
      Order<HardEvent::S_MTE2>(pipe_);
      Note(g, best);
    }
    return BR_STATUS_OK;
  }

  __aicore__ inline void Note(uint32_t worker, const Best &best) {
    bounds_[worker] = best.entry == BR_NOBODY ? kLeast : best.score - rise_;
    seen_at_[worker] = rise_;
    entries_[worker] = best.entry;
  }

  // The best score that was found in a column bounds what the column holds now: taken entries only lower it,
  // and `rise_` counts by how much growing envelopes may have raised it. So only the column with the greatest
  // bound is scored again.
  __aicore__ inline uint32_t PickFromMatrix() {
    while (picks_.count < batch_->max_picks) {
      uint32_t leader = BR_NOBODY;
      for (uint32_t g = 0; g < batch_->workers; g++) {
        if (bounds_[g] == kLeast) {
          continue;
        }
        bool before = leader == BR_NOBODY || bounds_[g] > bounds_[leader] ||
                      (bounds_[g] == bounds_[leader] && loads_.cost[g] < loads_.cost[leader]);
        if (before) {
          leader = g;
        }
      }
      if (leader == BR_NOBODY) {
        break;
      }
      if (seen_at_[leader] != rise_) {
        Best best = columns_.Find(leader, loads_);
        scored_++;
        if (best.status != BR_STATUS_OK) {
          return best.status;
        }
        Note(leader, best);
        continue;
      }
      uint32_t entry = entries_[leader];
      int64_t risen = Admit(leader, entry, bounds_[leader] + rise_);
      rise_ += risen;
      for (uint32_t g = 0; g < batch_->workers; g++) {
        if (entries_[g] == entry) {
          seen_at_[g] = -1;
        }
      }
      bounds_[leader] = loads_.open_slots[leader] > 0 ? INT64_MAX : kLeast;
      seen_at_[leader] = -1;
      if (rise_ >= INT64_C(1) << 60) {
        rise_ = 0;
        for (uint32_t g = 0; g < batch_->workers; g++) {
          bounds_[g] = bounds_[g] == kLeast ? kLeast : INT64_MAX;
          seen_at_[g] = -1;
        }
      }
    }
    return BR_STATUS_OK;
  }

  __aicore__ inline int64_t Admit(uint32_t worker, uint32_t entry, int64_t score) {
    int64_t risen = loads_.Admit(worker, columns_.TokensOf(entry));
    columns_.Take(entry);
    picks_.Put(entry, worker, score);
    return risen;
  }

  __aicore__ inline void Answer(uint32_t status) {
    LocalTensor<uint32_t> stage = columns_.Stage<uint32_t>();
    stage.SetValue(offsetof(BrOut, magic) / 4, BR_MAGIC);
    stage.SetValue(offsetof(BrOut, version) / 4, BR_VERSION);
    stage.SetValue(offsetof(BrOut, status) / 4, status);
    stage.SetValue(offsetof(BrOut, picks) / 4, picks_.count);
    stage.SetValue(offsetof(BrOut, columns) / 4, scored_);
    stage.SetValue(offsetof(BrOut, rescored) / 4, columns_.rescored);
    Order<HardEvent::S_MTE3>(pipe_);
    CopyOut(batch_->Answer<uint32_t>(0, sizeof(BrOut) / 4), stage, offsetof(BrOut, reserved) / 4);
  }

  TPipe *pipe_;
  const Batch *batch_;
  Loads loads_;
  Columns columns_;
  Picks picks_;
  uint32_t scored_;
  int64_t rise_;
  int64_t bounds_[BR_MAX_WORKERS];
  int64_t seen_at_[BR_MAX_WORKERS];
  uint32_t entries_[BR_MAX_WORKERS];
  bool closed_[BR_MAX_WORKERS];
};

} // namespace br
