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
    pipe->InitBuffer(first_buffer_, tile * sizeof(float));
    pipe->InitBuffer(second_buffer_, tile * sizeof(float));
    pipe->InitBuffer(third_buffer_, tile * sizeof(float));
    pipe->InitBuffer(fourth_buffer_, tile * sizeof(float));
    pipe->InitBuffer(reduce_buffer_, BR_REDUCE_BYTES);
    pipe->InitBuffer(scratch_buffer_, BR_SCRATCH_BYTES);
    pipe->InitBuffer(stage_buffer_, BR_STAGE_BYTES);
    tokens_ = tokens_buffer_.Get<float>();
    ages_ = ages_buffer_.Get<float>();
    scores_ = scores_buffer_.Get<float>();
    first_ = first_buffer_.Get<float>();
    second_ = second_buffer_.Get<float>();
    third_ = third_buffer_.Get<float>();
    fourth_ = fourth_buffer_.Get<float>();
    reduce_ = reduce_buffer_.Get<float>();
    scratch_ = scratch_buffer_.Get<float>();
    extras_ = ages_;
    if (bonus_) {
      pipe->InitBuffer(extras_buffer_, plane);
      extras_ = extras_buffer_.Get<float>();
      uint32_t bytes = tile * BR_BONUS_BYTES(batch.bonus_format);
      pipe->InitBuffer(bonuses_queue_, 2, bytes);
    }
    if (eligibility_ || room_) {
      pipe->InitBuffer(mask_buffer_, BR_MASK_BYTES(tile));
      mask_ = mask_buffer_.Get<uint8_t>();
    }
    if (eligibility_) {
      pipe->InitBuffer(bits_buffer_, tile * sizeof(int16_t));
      pipe->InitBuffer(bit_buffer_, tile * sizeof(int16_t));
      pipe->InitBuffer(words_queue_, 2, tile * sizeof(int16_t));
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
  __aicore__ inline void Take(uint32_t entry) {
    ages_.SetValue(entry, FromBits(kMinusInfinity));
    Order<HardEvent::S_V>(pipe_);
  }

  __aicore__ inline int64_t TokensOf(uint32_t entry) const { return At(tokens_, entry); }

  // The buffer in which the scalar unit writes answers before they are copied out.
  template <typename T> __aicore__ inline LocalTensor<T> Stage() { return stage_buffer_.Get<T>(); }

  uint32_t rescored;

 private:
  // Scores a run on a worker, tile by tile: first base + slope * s, then minus weight * max(0, s - at) for
  // each knot, then minus infinity where the request may not run.
  __aicore__ inline void Score(uint32_t worker, uint32_t run, int64_t longest) {
    uint32_t from = from_[run], count = count_[run], tile = batch_->tile;
    if (eligibility_) {
      AscendC::Duplicate(bit_, static_cast<int16_t>(1u << (worker % 16)), static_cast<int32_t>(tile));
    }
    Fetch(worker, from, count, 0);
    for (uint32_t at = 0; at < count; at += tile) {
      if (at + tile < count) {
        Fetch(worker, from, count, at + tile);
      }
      uint32_t size = count - at < tile ? count - at : tile;
      uint32_t entry = from + at;
      AddBonuses(entry, size);
      ScoreTile(entry, size);
      MaskTile(entry, size, longest);
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

  // Adds age and bonus of a tile.
  __aicore__ inline void AddBonuses(uint32_t entry, uint32_t size) {
    int32_t count = static_cast<int32_t>(size);
    if (batch_->bonus_format == BR_BONUS_F16) {
      LocalTensor<half> bonuses = bonuses_queue_.DeQue<half>();
      AscendC::Cast(first_, bonuses, AscendC::RoundMode::CAST_NONE, count);
      bonuses_queue_.FreeTensor(bonuses);
      PipeBarrier<PIPE_V>();
      AscendC::Add(extras_[entry], ages_[entry], first_, count);
      PipeBarrier<PIPE_V>();
    } else if (batch_->bonus_format == BR_BONUS_F32) {
      LocalTensor<float> bonuses = bonuses_queue_.DeQue<float>();
      AscendC::Add(extras_[entry], ages_[entry], bonuses, count);
      bonuses_queue_.FreeTensor(bonuses);
      PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline void ScoreTile(uint32_t entry, uint32_t size) {
    int32_t count = static_cast<int32_t>(size);
    LocalTensor<float> tokens = tokens_[entry], scores = scores_[entry];
    AscendC::Muls(scores, extras_[entry], FloatOf(batch_->unit), count);
    AscendC::Muls(first_, tokens, FloatOf(profile_.slope), count);
    PipeBarrier<PIPE_V>();
    AscendC::Add(scores, scores, first_, count);
    PipeBarrier<PIPE_V>();
    // Two knots are computed at a time, and the products of the pair before are subtracted meanwhile. So more
    // instructions share each barrier.
    int32_t done = 0;
    for (int32_t k = 0; k < profile_.knots; k += 2) {
      bool two = k + 1 < profile_.knots;
      const LocalTensor<float> &first = k % 4 == 0 ? first_ : third_,
                               &second = k % 4 == 0 ? second_ : fourth_;
      const LocalTensor<float> &before = k % 4 == 0 ? third_ : first_, &last = k % 4 == 0 ? fourth_ : second_;
      AscendC::Adds(first, tokens, FloatOf(-profile_.at[k]), count);
      if (two) {
        AscendC::Adds(second, tokens, FloatOf(-profile_.at[k + 1]), count);
      }
      if (done < k) {
        AscendC::Sub(scores, scores, before, count);
      }
      PipeBarrier<PIPE_V>();
      AscendC::Maxs(first, first, 0.0f, count);
      if (two) {
        AscendC::Maxs(second, second, 0.0f, count);
      }
      if (done < k) {
        AscendC::Sub(scores, scores, last, count);
        done += 2;
      }
      PipeBarrier<PIPE_V>();
      AscendC::Muls(first, first, FloatOf(profile_.weight[k]), count);
      if (two) {
        AscendC::Muls(second, second, FloatOf(profile_.weight[k + 1]), count);
      }
      PipeBarrier<PIPE_V>();
    }
    if (done < profile_.knots) {
      AscendC::Sub(scores, scores, done % 4 == 0 ? first_ : third_, count);
      PipeBarrier<PIPE_V>();
    }
    if (done + 1 < profile_.knots) {
      AscendC::Sub(scores, scores, done % 4 == 0 ? second_ : fourth_, count);
      PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline void MaskTile(uint32_t entry, uint32_t size, int64_t longest) {
    int32_t count = static_cast<int32_t>(size);
    // Comparisons take whole repeats of 64 floats. They also compare what lies past the end; Select uses none
    // of those bits.
    uint32_t whole = RoundUp(size, 64);
    LocalTensor<float> scores = scores_[entry];
    if (eligibility_) {
      LocalTensor<int16_t> words = words_queue_.DeQue<int16_t>();
      AscendC::And(bits_, words, bit_, count);
      words_queue_.FreeTensor(words);
      PipeBarrier<PIPE_V>();
      AscendC::Cast(first_, bits_, AscendC::RoundMode::CAST_NONE, count);
      PipeBarrier<PIPE_V>();
      AscendC::CompareScalar(mask_, first_, 0.0f, AscendC::CMPMODE::NE, whole);
      PipeBarrier<PIPE_V>();
      AscendC::Select(scores, mask_, scores, FromBits(kMinusInfinity),
                      AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, size);
      PipeBarrier<PIPE_V>();
    }
    if (room_ && longest < batch_->longest_tokens) {
      AscendC::CompareScalar(mask_, tokens_[entry], FloatOf(longest), AscendC::CMPMODE::LE, whole);
      PipeBarrier<PIPE_V>();
      AscendC::Select(scores, mask_, scores, FromBits(kMinusInfinity),
                      AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, size);
      PipeBarrier<PIPE_V>();
    }
  }

  // The greatest score of a run. Where f32 scores are exact, it is the greatest of them. Elsewhere every
  // entry that rounding leaves in doubt is scored again in integers.
  __aicore__ inline Best Greatest(uint32_t run, int64_t longest) {
    Best best{kLeast, BR_NOBODY, BR_STATUS_OK};
    uint32_t from = from_[run], index = 0;
    uint32_t value = Reduce(run, index);
    if (value == kMinusInfinity) {
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
      scores_.SetValue(entry, FromBits(kMinusInfinity));
      Order<HardEvent::S_V>(pipe_);
      value = Reduce(run, index);
      if (value == kMinusInfinity || WholeOf(value) < greatest - doubt) {
        return best;
      }
    }
    best.status = BR_STATUS_TIES;
    return best;
  }

  // The bits of the greatest score of a run, and its index in the run.
  __aicore__ inline uint32_t Reduce(uint32_t run, uint32_t &index) {
    uint32_t count = count_[run];
    AscendC::ReduceMax(reduce_, scores_[from_[run]], scratch_, static_cast<int32_t>(count), true);
    Order<HardEvent::V_S>(pipe_);
    LocalTensor<uint32_t> bits = reduce_.ReinterpretCast<uint32_t>();
    index = bits.GetValue(1);
    uint32_t value = bits.GetValue(0);
    // The next reduction writes what was read here.
    Order<HardEvent::S_V>(pipe_);
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
  TBuf<TPosition::VECCALC> tokens_buffer_, ages_buffer_, extras_buffer_, scores_buffer_, first_buffer_,
      second_buffer_;
  TBuf<TPosition::VECCALC> third_buffer_, fourth_buffer_;
  TBuf<TPosition::VECCALC> reduce_buffer_, scratch_buffer_, stage_buffer_, mask_buffer_, bits_buffer_,
      bit_buffer_;
  TQue<TPosition::VECIN, 2> bonuses_queue_, words_queue_;
  LocalTensor<float> tokens_, ages_, extras_, scores_, first_, second_, third_, fourth_, reduce_, scratch_;
  LocalTensor<uint8_t> mask_;
  LocalTensor<int16_t> bits_, bit_;
  GlobalTensor<int16_t> words_;
  GlobalTensor<half> half_bonuses_;
  GlobalTensor<float> float_bonuses_;
  GlobalTensor<uint32_t> arrivals_;
};

} // namespace br
