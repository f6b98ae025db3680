// Columns: every entry scored on one worker, and the best of them.
#pragma once

#include "profiles.h"

namespace br {

struct Best {
  int64_t score;
  uint32_t entry;
  uint32_t status;
};

class Columns {
 public:
  // Lays out the unified buffer and loads the planes that all columns share.
  __aicore__ inline void Load(TPipe *pipe, const Batch &batch) {
    pipe_ = pipe;
    batch_ = &batch;
    bonus_ = batch.bonus_format != BR_BONUS_NONE;
    eligibility_ = (batch.flags & BR_FLAG_ELIGIBILITY) != 0;
    room_ = (batch.flags & BR_FLAG_ROOM) != 0;
    uint32_t tile = batch.tile, plane = batch.stride * sizeof(float);
    pipe->InitBuffer(tokens_buffer_, plane);
    pipe->InitBuffer(ages_buffer_, plane);
    pipe->InitBuffer(scores_buffer_, plane);
    for (uint32_t index = 0; index < BR_WORK_TILES; index++) {
      pipe->InitBuffer(work_buffers_[index], tile * sizeof(float));
      work_[index] = work_buffers_[index].Get<float>();
    }
    pipe->InitBuffer(greatest_buffer_, BR_GREATEST_BYTES);
    pipe->InitBuffer(repeats_buffer_, BR_REPEATS_BYTES);
    pipe->InitBuffer(stage_buffer_, BR_STAGE_BYTES);
    tokens_ = tokens_buffer_.Get<float>();
    ages_ = ages_buffer_.Get<float>();
    scores_ = scores_buffer_.Get<float>();
    greatest_ = greatest_buffer_.Get<float>();
    repeats_ = repeats_buffer_.Get<float>();
    extras_ = ages_;
    if (bonus_) {
      pipe->InitBuffer(extras_buffer_, plane);
      extras_ = extras_buffer_.Get<float>();
      uint32_t bytes = tile * BR_BONUS_BYTES(batch.bonus_format);
      pipe->InitBuffer(bonuses_queue_, 1, bytes);
    }
    if (room_) {
      pipe->InitBuffer(fits_buffer_, BR_MASK_BYTES(tile));
      fits_ = fits_buffer_.Get<uint8_t>();
    }
    if (eligibility_) {
      pipe->InitBuffer(eligible_buffer_, BR_MASK_BYTES(tile));
      eligible_ = eligible_buffer_.Get<uint8_t>();
      pipe->InitBuffer(bits_buffer_, tile * sizeof(int16_t));
      pipe->InitBuffer(bit_buffer_, tile * sizeof(int16_t));
      pipe->InitBuffer(words_queue_, 1, tile * sizeof(int16_t));
      bits_ = bits_buffer_.Get<int16_t>();
      bit_ = bit_buffer_.Get<int16_t>();
      words_ = batch.Section<int16_t>(batch.U32(offsetof(BrHeader, words_at)),
                                      static_cast<uint64_t>((batch.workers + 15) / 16) * batch.stride);
    }
    uint64_t pairs = static_cast<uint64_t>(batch.workers) * batch.stride;
    if (batch.bonus_format == BR_BONUS_F16) {
      half_bonuses_ = batch.Section<half>(batch.U32(offsetof(BrHeader, bonus_at)), pairs);
    } else if (batch.bonus_format == BR_BONUS_F32) {
      float_bonuses_ = batch.Section<float>(batch.U32(offsetof(BrHeader, bonus_at)), pairs);
    }
    arrivals_ = batch.Section<uint32_t>(batch.U32(offsetof(BrHeader, arrivals_at)), batch.stride);

    GlobalTensor<float> tokens = batch.Section<float>(batch.U32(offsetof(BrHeader, tokens_at)), batch.stride);
    GlobalTensor<float> ages = batch.Section<float>(batch.U32(offsetof(BrHeader, ages_at)), batch.stride);
    GlobalTensor<uint32_t> runs = batch.Section<uint32_t>(batch.U32(offsetof(BrHeader, runs_at)),
                                                          batch.runs * (sizeof(BrRun) / 4));
    for (uint32_t run = 0; run < batch.runs; run++) {
      from_[run] = runs.GetValue(run * (sizeof(BrRun) / 4) + offsetof(BrRun, from) / 4);
      count_[run] = runs.GetValue(run * (sizeof(BrRun) / 4) + offsetof(BrRun, count) / 4);
      if (count_[run] > 0) {
        CopyIn(tokens_[from_[run]], tokens[from_[run]], count_[run]);
        CopyIn(ages_[from_[run]], ages[from_[run]], count_[run]);
      }
    }
    // Reductions take whole repeats: what lies behind the end of a run is taken.
    AscendC::Duplicate(scores_, FromBits(kTaken), static_cast<int32_t>(batch.stride));
    PipeBarrier<PIPE_V>();
    // The scalar unit reads these planes too, but only after it has waited for later vector instructions.
    Order<HardEvent::MTE2_V>(pipe);
    rescored = 0;
  }

  // The best entry of a worker over all runs: greatest score, then earliest arrival.
  __aicore__ inline Best Find(uint32_t worker, const Loads &loads) {
    Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
    for (uint32_t run = 0; run < batch_->runs; run++) {
      Best other = FindInRun(worker, run, loads);
      if (other.status != BR_STATUS_OK) {
        return other;
      }
      Keep(best, other);
    }
    return best;
  }

  // Replaces the best of one run by that of another, if the other is better.
  __aicore__ inline void Keep(Best &best, const Best &other) const {
    if (other.entry == BR_NOBODY) {
      return;
    }
    bool better = best.entry == BR_NOBODY || other.score > best.score ||
                  (other.score == best.score &&
                   arrivals_.GetValue(other.entry) < arrivals_.GetValue(best.entry));
    if (better) {
      best = other;
    }
  }

  __aicore__ inline Best FindInRun(uint32_t worker, uint32_t run, const Loads &loads) {
    Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
    int64_t longest = loads.LongestFor(worker);
    if (count_[run] == 0 || longest < batch_->shortest_tokens) {
      return best;
    }
    loads.Fill(worker, run, longest, profile_);
    Score(worker, run, longest);
    return Greatest(run, longest);
  }

  // Removes an entry from all columns scored later.
  __aicore__ inline void Take(uint32_t entry) { ages_.SetValue(entry, FromBits(kTaken)); }

  __aicore__ inline int64_t TokensOf(uint32_t entry) const { return At(tokens_, entry); }

  // The buffer in which the scalar unit writes answers before they are copied out.
  template <typename T> __aicore__ inline LocalTensor<T> Stage() { return stage_buffer_.Get<T>(); }

  uint32_t rescored;

 private:
  // Scores a run on a worker, tile by tile: base + slope * s, minus weight * max(0, s - at) of two knots at a
  // time; then crosses out who may not run.
  __aicore__ inline void Score(uint32_t worker, uint32_t run, int64_t longest) {
    uint32_t from = from_[run], count = count_[run], tile = batch_->tile;
    // The scalar unit has read the column before this one, and may have taken an entry.
    Order<HardEvent::S_V>(pipe_);
    if (eligibility_) {
      AscendC::Duplicate(bit_, static_cast<int16_t>(1u << (worker % 16)), static_cast<int32_t>(tile));
      PipeBarrier<PIPE_V>();
    }
    Fetch(worker, from, count, 0);
    for (uint32_t at = 0; at < count; at += tile) {
      ScoreTile(worker, from, count, at, longest);
    }
  }

  // Starts to load the bonuses and eligibility words of a tile.
  __aicore__ inline void Fetch(uint32_t worker, uint32_t from, uint32_t count, uint32_t at) {
    uint32_t size = count - at < batch_->tile ? count - at : batch_->tile;
    uint64_t entry = static_cast<uint64_t>(worker) * batch_->stride + from + at;
    if (batch_->bonus_format == BR_BONUS_F16) {
      LocalTensor<half> bonuses = bonuses_queue_.AllocTensor<half>();
      CopyIn(bonuses, half_bonuses_[entry], size);
      bonuses_queue_.EnQue(bonuses);
    } else if (batch_->bonus_format == BR_BONUS_F32) {
      LocalTensor<float> bonuses = bonuses_queue_.AllocTensor<float>();
      CopyIn(bonuses, float_bonuses_[entry], size);
      bonuses_queue_.EnQue(bonuses);
    }
    if (eligibility_) {
      LocalTensor<int16_t> words = words_queue_.AllocTensor<int16_t>();
      uint64_t word = static_cast<uint64_t>(worker / 16) * batch_->stride + from + at;
      CopyIn(words, words_[word], size);
      words_queue_.EnQue(words);
    }
  }

  // Work is cut into intervals between two barriers. A pair of knots takes five of them, and each begins a
  // new pair, so that all vector instructions of an interval are independent. The first four also compute the
  // base and the masks.
  __aicore__ inline void ScoreTile(uint32_t worker, uint32_t from, uint32_t count, uint32_t at,
                                   int64_t longest) {
    uint32_t size = count - at < batch_->tile ? count - at : batch_->tile, entry = from + at;
    int32_t pairs = (profile_.knots + 1) / 2;
    for (int32_t interval = 0; interval < pairs + 4; interval++) {
      BaseStep(interval, entry, size, longest);
      KnotSteps(interval, entry, size);
      // The queues have this tile's buffers back, one each: with a second one a queue could pass an event
      // again for which the other pipe has not waited yet.
      if (interval == 1 && at + batch_->tile < count) {
        Fetch(worker, from, count, at + batch_->tile);
      }
      PipeBarrier<PIPE_V>();
    }
    if (eligibility_) {
      Mask(eligible_, entry, size);
    }
    if (room_ && longest < batch_->longest_tokens) {
      Mask(fits_, entry, size);
    }
  }

  // Scores become unit * (age + bonus) + slope * s.
  __aicore__ inline void BaseStep(int32_t interval, uint32_t entry, uint32_t size, int64_t longest) {
    int32_t count = static_cast<int32_t>(size);
    // Comparisons take whole repeats of 64 floats. They also compare what lies past the end; Select uses none
    // of those bits.
    uint32_t whole = RoundUp(size, kLanes);
    // Two tiles that KnotSteps does not use yet.
    const LocalTensor<float> &sum = work_[4], &bits = work_[8];
    LocalTensor<float> scores = scores_[entry];
    switch (interval) {
    case 0:
      AscendC::Muls(scores, tokens_[entry], FloatOf(profile_.slope), count);
      if (batch_->bonus_format == BR_BONUS_F16) {
        LocalTensor<half> bonuses = bonuses_queue_.DeQue<half>();
        AscendC::Cast(sum, bonuses, AscendC::RoundMode::CAST_NONE, count);
        bonuses_queue_.FreeTensor(bonuses);
      }
      if (eligibility_) {
        LocalTensor<int16_t> words = words_queue_.DeQue<int16_t>();
        AscendC::And(bits_, words, bit_, count);
        words_queue_.FreeTensor(words);
      }
      if (room_ && longest < batch_->longest_tokens) {
        AscendC::CompareScalar(fits_, tokens_[entry], FloatOf(longest), AscendC::CMPMODE::LE, whole);
      }
      break;
    case 1:
      if (batch_->bonus_format == BR_BONUS_F16) {
        AscendC::Add(extras_[entry], ages_[entry], sum, count);
      } else if (batch_->bonus_format == BR_BONUS_F32) {
        LocalTensor<float> bonuses = bonuses_queue_.DeQue<float>();
        AscendC::Add(extras_[entry], ages_[entry], bonuses, count);
        bonuses_queue_.FreeTensor(bonuses);
      }
      if (eligibility_) {
        AscendC::Cast(bits, bits_, AscendC::RoundMode::CAST_NONE, count);
      }
      break;
    case 2:
      AscendC::Muls(sum, extras_[entry], FloatOf(batch_->unit), count);
      if (eligibility_) {
        AscendC::CompareScalar(eligible_, bits, 0.0f, AscendC::CMPMODE::NE, whole);
      }
      break;
    case 3:
      AscendC::Add(scores, scores, sum, count);
      break;
    default: break;
    }
  }

  // One step of each of five pairs of knots: the pair that begins in this interval, and the four before it.
  __aicore__ inline void KnotSteps(int32_t interval, uint32_t entry, uint32_t size) {
    int32_t count = static_cast<int32_t>(size);
    if (HasKnot(2 * interval)) {
      AscendC::Adds(First(interval), tokens_[entry], FloatOf(-profile_.at[2 * interval]), count);
    }
    if (HasKnot(2 * interval + 1)) {
      AscendC::Adds(Second(interval), tokens_[entry], FloatOf(-profile_.at[2 * interval + 1]), count);
    }
    int32_t pair = interval - 1;
    if (HasKnot(2 * pair)) {
      AscendC::Maxs(First(pair), First(pair), 0.0f, count);
    }
    if (HasKnot(2 * pair + 1)) {
      AscendC::Maxs(Second(pair), Second(pair), 0.0f, count);
    }
    pair = interval - 2;
    if (HasKnot(2 * pair)) {
      AscendC::Muls(First(pair), First(pair), FloatOf(profile_.weight[2 * pair]), count);
    }
    if (HasKnot(2 * pair + 1)) {
      AscendC::Muls(Second(pair), Second(pair), FloatOf(profile_.weight[2 * pair + 1]), count);
    }
    pair = interval - 3;
    if (HasKnot(2 * pair + 1)) {
      AscendC::Add(First(pair), First(pair), Second(pair), count);
    }
    pair = interval - 4;
    if (HasKnot(2 * pair)) {
      AscendC::Sub(scores_[entry], scores_[entry], First(pair), count);
    }
  }

  __aicore__ inline bool HasKnot(int32_t knot) const { return knot >= 0 && knot < profile_.knots; }
  // The tiles of a pair of knots: the first is in use for five intervals, the second for four.
  __aicore__ inline const LocalTensor<float> &First(int32_t pair) const { return work_[pair % 5]; }
  __aicore__ inline const LocalTensor<float> &Second(int32_t pair) const { return work_[5 + pair % 4]; }

  // Takes the entries of a tile whose bit in a mask is not set.
  __aicore__ inline void Mask(const LocalTensor<uint8_t> &mask, uint32_t entry, uint32_t size) {
    LocalTensor<float> scores = scores_[entry];
    AscendC::Select(scores, mask, scores, FromBits(kTaken), AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, size);
    PipeBarrier<PIPE_V>();
  }

  // The greatest score of a run. Where f32 scores are exact, it is the greatest of them. Elsewhere every
  // entry that rounding leaves in doubt is scored again in integers.
  __aicore__ inline Best Greatest(uint32_t run, int64_t longest) {
    Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
    uint32_t from = from_[run], repeats = RoundUp(count_[run], kLanes) / kLanes, index = 0;
    Reduce(from, 0, repeats);
    uint32_t value = Top(repeats, index);
    if (IsTaken(value)) {
      return best;
    }
    int64_t reach = Magnitude(profile_.slope) * longest + batch_->unit * batch_->greatest_extra_tokens;
    int64_t greatest = WholeOf(value);
    if (reach + profile_.losses < BR_EXACT_F32) {
      return Best{greatest + profile_.intercept, from + index, BR_STATUS_OK};
    }
    int64_t doubt = 4 * (profile_.knots + 7) * (((2 * reach - greatest) >> 24) + 1);
    for (uint32_t tried = 0; tried < BR_MAX_RESCORED; tried++) {
      uint32_t entry = from + index;
      int64_t extra = At(extras_, entry);
      int64_t score = profile_.Score(TokensOf(entry)) + batch_->unit * extra;
      rescored++;
      // Entries come in the order of their f32 scores, so equal scores are compared by arrival.
      if (score > best.score || (score == best.score && entry < best.entry)) {
        best.score = score;
        best.entry = entry;
      }
      scores_.SetValue(entry, FromBits(kTaken));
      Order<HardEvent::S_V>(pipe_);
      Reduce(from, index / kLanes, 1);
      value = Top(repeats, index);
      if (IsTaken(value) || WholeOf(value) < greatest - doubt) {
        return best;
      }
    }
    best.status = BR_STATUS_TIES;
    return best;
  }

  // Finds the greatest score of some repeats of a run, and its lane: a pair for each.
  __aicore__ inline void Reduce(uint32_t from, uint32_t first, uint32_t repeats) {
    AscendC::WholeReduceMax(repeats_[first * 2], scores_[from + first * kLanes], static_cast<int32_t>(kLanes),
                            static_cast<int32_t>(repeats), 1, 1, 8);
    PipeBarrier<PIPE_V>();
  }

  // The bits of the greatest score of all repeats of a run, and the lowest index that has it.
  __aicore__ inline uint32_t Top(uint32_t repeats, uint32_t &index) {
    // A repeat holds the pairs of 32 repeats: two reductions for the longest run.
    for (uint32_t first = 0; first < repeats; first += kLanes / 2) {
      uint32_t some = repeats - first < kLanes / 2 ? repeats - first : kLanes / 2;
      // The even lanes hold the scores.
      uint64_t lanes[2] = {UINT64_C(0x5555555555555555) >> (kLanes - 2 * some), 0};
      AscendC::WholeReduceMax(greatest_[first / (kLanes / 2) * BR_BLOCK_BYTES / sizeof(float)],
                              repeats_[first * 2], lanes, 1, 1, 1, 8);
    }
    Order<HardEvent::V_S>(pipe_);
    LocalTensor<uint32_t> greatest = greatest_.ReinterpretCast<uint32_t>();
    uint32_t value = greatest.GetValue(0), lane = greatest.GetValue(1);
    if (repeats > kLanes / 2) {
      uint32_t other = greatest.GetValue(BR_BLOCK_BYTES / sizeof(float));
      if (OrderOf(other) > OrderOf(value)) {
        value = other;
        lane = kLanes + greatest.GetValue(BR_BLOCK_BYTES / sizeof(float) + 1);
      }
    }
    index = lane / 2 * kLanes + repeats_.ReinterpretCast<uint32_t>().GetValue(lane + 1);
    return value;
  }

  __aicore__ inline int64_t At(const LocalTensor<float> &plane, uint32_t entry) const {
    return WholeOf(plane.ReinterpretCast<uint32_t>().GetValue(entry));
  }

  TPipe *pipe_;
  const Batch *batch_;
  bool bonus_;
  bool eligibility_;
  bool room_;
  uint32_t from_[BR_MAX_RUNS];
  uint32_t count_[BR_MAX_RUNS];
  Profile profile_;
  TBuf<TPosition::VECCALC> tokens_buffer_, ages_buffer_, extras_buffer_, scores_buffer_;
  TBuf<TPosition::VECCALC> work_buffers_[BR_WORK_TILES];
  TBuf<TPosition::VECCALC> greatest_buffer_, repeats_buffer_, stage_buffer_;
  TBuf<TPosition::VECCALC> fits_buffer_, eligible_buffer_, bits_buffer_, bit_buffer_;
  TQue<TPosition::VECIN, 1> bonuses_queue_, words_queue_;
  LocalTensor<float> tokens_, ages_, extras_, scores_, greatest_, repeats_;
  LocalTensor<float> work_[BR_WORK_TILES];
  LocalTensor<uint8_t> fits_, eligible_;
  LocalTensor<int16_t> bits_, bit_;
  GlobalTensor<int16_t> words_;
  GlobalTensor<half> half_bonuses_;
  GlobalTensor<float> float_bonuses_;
  GlobalTensor<uint32_t> arrivals_;
};

} // namespace br
