// Profiles: what a request's length is worth on a worker. The scalar unit computes them anew as loads change.
#pragma once

#include "common.h"

namespace br {

// A concave piecewise-linear profile, cut to the lengths of a column. Knots below them become part of slope
// and intercept; knots above them are left out. All numbers are 64-bit integers.
class Profile {
 public:
  __aicore__ inline void Begin(int64_t shortest_tokens, int64_t longest_tokens) {
    shortest_ = shortest_tokens;
    longest_ = longest_tokens;
    intercept = slope = losses = 0;
    knots = 0;
  }

  __aicore__ inline void AddKnot(int64_t at_tokens, int64_t weight_units) {
    if (at_tokens <= shortest_) {
      slope -= weight_units;
      intercept += weight_units * at_tokens;
    } else if (at_tokens < longest_ && weight_units != 0) {
      at[knots] = at_tokens;
      weight[knots] = weight_units;
      losses += weight_units * (longest_ - at_tokens);
      knots++;
    }
  }

  // The exact score of a request, without age and bonus.
  __aicore__ inline int64_t Score(int64_t tokens) const {
    int64_t score = intercept + slope * tokens;
    for (int32_t k = 0; k < knots; k++) {
      score -= weight[k] * Max(tokens - at[k], 0);
    }
    return score;
  }

  int64_t intercept;
  int64_t slope;
  int64_t losses; // the most that the knots can subtract
  int32_t knots;
  int64_t at[BR_MAX_KNOTS];
  int64_t weight[BR_MAX_KNOTS];

 private:
  int64_t shortest_;
  int64_t longest_;
};

// The loads of a decision as admissions change them, and the profiles that follow from the loads.
class Loads {
 public:
  __aicore__ inline void Load(const Batch &batch) {
    batch_ = &batch;
    workers_ = batch.Section<int64_t>(batch.U32(offsetof(BrHeader, workers_at)),
                                      batch.workers * (sizeof(BrWorker) / 8));
    envelope = batch.I64(offsetof(BrHeader, envelope));
    refill_tokens_ = batch.I64(offsetof(BrHeader, refill_tokens));
    drop_tokens_ = batch.I64(offsetof(BrHeader, drop_tokens));
    f_slope_ = batch.I64(offsetof(BrHeader, f_slope));
    f_weight_ = batch.I64(offsetof(BrHeader, f_weight));
    open = 0;
    anticipated_sum_ = 0;
    dearest_ = 1;
    for (uint32_t g = 0; g < batch.workers; g++) {
      cost[g] = Of(g, offsetof(BrWorker, cost));
      anticipated_[g] = Of(g, offsetof(BrWorker, anticipated));
      longest_tokens[g] = Of(g, offsetof(BrWorker, longest_tokens));
      open_slots[g] = static_cast<int32_t>(Of(g, offsetof(BrWorker, open_slots)) & 0xffffffff);
      open += open_slots[g];
      anticipated_sum_ += anticipated_[g];
      dearest_ = Max(dearest_, PerToken(g));
    }
    if (batch.mode == BR_MODE_LOOKAHEAD) {
      row_stride_ = batch.U32(offsetof(BrHeader, row_stride)) / 4;
      weight_stride_ = batch.U32(offsetof(BrHeader, weight_stride)) / 4;
      rows_ = batch.Section<int32_t>(batch.U32(offsetof(BrHeader, rows_at)), batch.workers * row_stride_);
      weights_ =
          batch.Section<int32_t>(batch.U32(offsetof(BrHeader, weights_at)), batch.runs * weight_stride_);
      GlobalTensor<int64_t> envelopes =
          batch.Section<int64_t>(batch.U32(offsetof(BrHeader, envelope_at)), batch.steps);
      for (uint32_t h = 0; h < batch.steps; h++) {
        envelope_row_[h] = envelopes.GetValue(h);
      }
    }
    if (batch.mode == BR_MODE_LEVELS) {
      LoadLevels(batch);
    }
    runs_ = batch.Section<int64_t>(batch.U32(offsetof(BrHeader, runs_at)), batch.runs * (sizeof(BrRun) / 8));
    profile_stride_ = batch.U32(offsetof(BrHeader, profile_stride)) / 8;
    if (batch.mode == BR_MODE_FIXED) {
      profiles_ = batch.Section<int64_t>(batch.U32(offsetof(BrHeader, profiles_at)),
                                         static_cast<uint64_t>(batch.workers) * batch.runs * profile_stride_);
    }
  }

  // Computes the profile of a worker for the requests of a run that are at most `longest` tokens long.
  __aicore__ inline void Fill(uint32_t worker, uint32_t run, int64_t longest, Profile &profile) const {
    profile.Begin(batch_->shortest_tokens, longest);
    switch (batch_->mode) {
    case BR_MODE_F:
      FillMargin(worker, profile);
      break;
    case BR_MODE_LOOKAHEAD:
      FillLookahead(worker, run, profile);
      break;
    case BR_MODE_LEVEL:
      FillLevel(worker, profile);
      break;
    case BR_MODE_LEVELS:
      FillLevels(worker, profile);
      break;
    default:
      FillFixed(worker, run, profile);
      break;
    }
  }

  // Puts a request on a worker. Returns a bound, in units, of how much any score may have risen.
  __aicore__ inline int64_t Admit(uint32_t worker, int64_t tokens) {
    int64_t per_token = PerToken(worker), rise = 0;
    cost[worker] += tokens * per_token;
    open_slots[worker]--;
    open--;
    if ((batch_->flags & BR_FLAG_ROOM) != 0) {
      longest_tokens[worker] -= tokens + batch_->growth_tokens;
    }
    int64_t more = (tokens - refill_tokens_) * per_token;
    if (batch_->mode == BR_MODE_LEVELS) {
      MoveLevel(anticipated_[worker], anticipated_[worker] + more);
    }
    anticipated_[worker] += more;
    anticipated_sum_ += more;
    if (cost[worker] > envelope) {
      if (batch_->mode == BR_MODE_F) {
        // A knot moves by whole tokens: the bound is rounded up.
        rise += f_weight_ * (cost[worker] - envelope + dearest_ - 1);
      }
      envelope = cost[worker];
    }
    if (batch_->mode == BR_MODE_LOOKAHEAD) {
      int64_t added = Added(worker);
      for (uint32_t h = 0; h < batch_->steps; h++) {
        int64_t load = RowCost(worker, h, per_token, added);
        if (load > envelope_row_[h]) {
          rise += GreatestWeight(h) * (load - envelope_row_[h] + dearest_ - 1);
          envelope_row_[h] = load;
        }
      }
    }
    return rise;
  }

  // The longest request that a worker may take.
  __aicore__ inline int64_t LongestFor(uint32_t worker) const {
    int64_t longest = batch_->longest_tokens;
    return (batch_->flags & BR_FLAG_ROOM) != 0 ? Min(longest, longest_tokens[worker]) : longest;
  }

  int64_t cost[BR_MAX_WORKERS];
  int64_t longest_tokens[BR_MAX_WORKERS];
  int32_t open_slots[BR_MAX_WORKERS];
  int64_t open;
  int64_t envelope;

 private:
  __aicore__ inline int64_t Of(uint32_t worker, uint32_t offset) const {
    return workers_.GetValue(worker * (sizeof(BrWorker) / 8) + offset / 8);
  }
  __aicore__ inline int64_t PerToken(uint32_t worker) const {
    return Of(worker, offsetof(BrWorker, cost_per_token));
  }

  // The cost that this step has added to every step of a worker's row.
  __aicore__ inline int64_t Added(uint32_t worker) const {
    return cost[worker] - Of(worker, offsetof(BrWorker, cost)) + Of(worker, offsetof(BrWorker, row_added));
  }
  __aicore__ inline int64_t RowCost(uint32_t worker, uint32_t h, int64_t per_token, int64_t added) const {
    return rows_.GetValue(worker * row_stride_ + h) * per_token + added;
  }
  __aicore__ inline int64_t GreatestWeight(uint32_t h) const {
    int64_t greatest = 0;
    for (uint32_t run = 0; run < batch_->runs; run++) {
      greatest = Max(greatest, weights_.GetValue(run * weight_stride_ + h));
    }
    return greatest;
  }

  __aicore__ inline void FillMargin(uint32_t worker, Profile &profile) const {
    int64_t per_token = PerToken(worker);
    profile.slope = f_slope_ * per_token;
    profile.AddKnot(FloorDiv(envelope - cost[worker], per_token), f_weight_ * per_token);
  }

  __aicore__ inline void FillLookahead(uint32_t worker, uint32_t run, Profile &profile) const {
    int64_t per_token = PerToken(worker), added = Added(worker);
    profile.slope = runs_.GetValue(run * (sizeof(BrRun) / 8) + offsetof(BrRun, slope) / 8) * per_token;
    for (uint32_t h = 0; h < batch_->steps; h++) {
      int64_t margin = envelope_row_[h] - RowCost(worker, h, per_token, added);
      profile.AddKnot(per_token == 1 ? margin : FloorDiv(margin, per_token),
                      weights_.GetValue(run * weight_stride_ + h) * per_token);
    }
  }

  __aicore__ inline void FillLevel(uint32_t worker, Profile &profile) const {
    int64_t others = static_cast<int64_t>(batch_->workers) - 1;
    if (others == 0) {
      return;
    }
    int64_t others_max = kLeast;
    for (uint32_t g = 0; g < batch_->workers; g++) {
      if (g != worker) {
        others_max = Max(others_max, anticipated_[g]);
      }
    }
    int64_t per_token = PerToken(worker);
    // The slot that is about to be filled expects no refill.
    int64_t own = anticipated_[worker] - refill_tokens_ * per_token;
    int64_t wanted =
        FloorDiv(anticipated_sum_ - anticipated_[worker], others) - drop_tokens_ * per_token - own;
    int64_t wanted_tokens = FloorDiv(wanted, per_token);
    profile.intercept = -wanted_tokens * per_token;
    profile.slope = per_token;
    profile.AddKnot(wanted_tokens, 2 * per_token);
    profile.AddKnot(FloorDiv(others_max - own, per_token), others * per_token);
  }

  __aicore__ inline void LoadLevels(const Batch &batch) {
    terms_ = batch.Section<int64_t>(batch.U32(offsetof(BrHeader, terms_at)),
                                    sizeof(BrLevelTerms) / 8 + batch.steps * (sizeof(BrKnot) / 8));
    rises_ = batch.Section<int64_t>(batch.U32(offsetof(BrHeader, rises_at)), batch.workers);
    GlobalTensor<int64_t> levels =
        batch.Section<int64_t>(batch.U32(offsetof(BrHeader, levels_at)), batch.workers);
    for (uint32_t at = 0; at < batch.workers; at++) {
      levels_[at] = levels.GetValue(at);
    }
    token_cost_ = Term(offsetof(BrLevelTerms, token_cost));
  }

  __aicore__ inline int64_t Term(uint32_t offset) const { return terms_.GetValue(offset / 8); }

  // Keeps the levels in order when one of them has changed.
  __aicore__ inline void MoveLevel(int64_t from, int64_t to) {
    uint32_t at = 0;
    while (at + 1 < batch_->workers && levels_[at] != from) {
      at++;
    }
    for (; at + 1 < batch_->workers && levels_[at + 1] > to; at++) {
      levels_[at] = levels_[at + 1];
    }
    for (; at > 0 && levels_[at - 1] < to; at--) {
      levels_[at] = levels_[at - 1];
    }
    levels_[at] = to;
  }

  // Units where a token costs so much.
  __aicore__ inline int64_t Here(int64_t units, int64_t per_token) const {
    return per_token == token_cost_ ? units : units * per_token / token_cost_;
  }

  __aicore__ inline void FillLevels(uint32_t worker, Profile &profile) const {
    uint32_t others = batch_->workers - 1;
    if (others == 0) {
      return;
    }
    int64_t per_token = PerToken(worker), level = anticipated_[worker];
    int64_t own = level - refill_tokens_ * per_token;
    int64_t mean = FloorDiv(anticipated_sum_ - level, others);
    int64_t least = levels_[others] == level ? levels_[others - 1] : levels_[others];
    int64_t wanted = (Term(offsetof(BrLevelTerms, mean)) * FloorDiv(mean - own, per_token) +
                      Term(offsetof(BrLevelTerms, least)) * FloorDiv(least - own, per_token) +
                      Term(offsetof(BrLevelTerms, base)) + (INT64_C(1) << 15)) >>
                     16;
    int64_t token = Here(batch_->unit, per_token), slope = Term(offsetof(BrLevelTerms, reserve_slope));
    profile.intercept = -wanted * token - Here(Term(offsetof(BrLevelTerms, reserve)), per_token);
    profile.slope = token + Here(slope, per_token);
    profile.AddKnot(wanted, token + Here(Term(offsetof(BrLevelTerms, fall)), per_token));
    // An equal of its own level may stand for it.
    int64_t before = Here(rises_.GetValue(0), per_token);
    uint32_t higher = 0;
    bool met_own = false;
    for (uint32_t at = 0; at < batch_->workers; at++) {
      if (!met_own && levels_[at] == level) {
        met_own = true;
        continue;
      }
      higher++;
      int64_t next = Here(rises_.GetValue(higher), per_token);
      if (before > next) {
        int64_t gap = levels_[at] - own;
        profile.AddKnot(per_token == 1 ? gap : FloorDiv(gap, per_token), before - next);
      }
      before = next;
    }
    before = Here(slope, per_token);
    for (uint32_t knot = 0; knot < batch_->steps; knot++) {
      uint32_t at = sizeof(BrLevelTerms) / 8 + knot * (sizeof(BrKnot) / 8);
      slope -= terms_.GetValue(at + offsetof(BrKnot, weight) / 8);
      int64_t next = Here(slope, per_token);
      profile.AddKnot(terms_.GetValue(at), before - next);
      before = next;
    }
  }

  __aicore__ inline void FillFixed(uint32_t worker, uint32_t run, Profile &profile) const {
    uint64_t from = static_cast<uint64_t>(worker * batch_->runs + run) * profile_stride_;
    profile.intercept = profiles_.GetValue(from + offsetof(BrProfile, intercept) / 8);
    profile.slope = profiles_.GetValue(from + offsetof(BrProfile, slope) / 8);
    int64_t knots =
        Min(profiles_.GetValue(from + offsetof(BrProfile, knots) / 8) & 0xffffffff, batch_->steps);
    for (int64_t k = 0; k < knots; k++) {
      uint64_t knot = from + sizeof(BrProfile) / 8 + k * (sizeof(BrKnot) / 8);
      profile.AddKnot(profiles_.GetValue(knot), profiles_.GetValue(knot + 1));
    }
  }

  const Batch *batch_;
  GlobalTensor<int64_t> workers_;
  GlobalTensor<int64_t> runs_;
  GlobalTensor<int64_t> profiles_;
  GlobalTensor<int64_t> terms_;
  GlobalTensor<int64_t> rises_;
  GlobalTensor<int32_t> rows_;
  GlobalTensor<int32_t> weights_;
  uint32_t row_stride_;
  uint32_t weight_stride_;
  uint32_t profile_stride_;
  int64_t refill_tokens_;
  int64_t drop_tokens_;
  int64_t f_slope_;
  int64_t f_weight_;
  int64_t dearest_;
  int64_t anticipated_sum_;
  int64_t token_cost_;
  int64_t anticipated_[BR_MAX_WORKERS];
  int64_t levels_[BR_MAX_WORKERS]; // all of them, greatest first: LEVELS
  int64_t envelope_row_[BR_MAX_STEPS];
};

} // namespace br
