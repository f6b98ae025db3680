// MindIE-LLM's balance policy over the C ABI: a wave of candidates in, one vector for each data-parallel
// rank out.
//
// MindIE's interface passes no loads, so the policy is given a function that tells each rank's (from
// CollectSchedulerMetric). To use it, derive:
//
//     class BalanceRoutePolicy : public IBalancePolicy {
//       balanceroute::WavePolicy<SequenceGroupSPtr> wave_{loadOf, lengthOf};
//       void SetConstraint(const BalancerConstraintParam &param) override {
//         wave_.SetConstraint(param.maxReqNumPerWavePerDP_, param.dispatchNumAtThisWave_);
//       }
//       std::vector<std::vector<SequenceGroupSPtr>> Apply(
//           std::vector<SequenceGroupSPtr> &candidates) override {
//         return wave_.Apply(candidates);
//       }
//     };
#pragma once

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "balanceroute.h"

namespace balanceroute {

// One rank as the wave begins; tokens are KV tokens.
struct RankLoad {
  uint64_t load_tokens;
  uint32_t running;
  uint32_t free_slots;
  uint64_t kv_capacity_tokens;
};

template <typename Candidate>
class WavePolicy {
 public:
  using LoadOf = std::function<RankLoad(size_t rank)>;
  using LengthOf = std::function<uint32_t(const Candidate &)>;

  WavePolicy(LoadOf load_of, LengthOf length_of, const char *policy = "level")
      : load_of_(std::move(load_of)), length_of_(std::move(length_of)) {
    std::string error(256, '\0');
    if (br_assigner_new(policy, nullptr, &assigner_, error.data(), error.size()) != BR_OK)
      throw std::invalid_argument(error.c_str());
  }
  ~WavePolicy() { br_assigner_free(assigner_); }
  WavePolicy(const WavePolicy &) = delete;
  WavePolicy &operator=(const WavePolicy &) = delete;

  void SetConstraint(size_t most_per_rank, size_t ranks) {
    if (ranks == 0) throw std::invalid_argument("a wave needs at least one rank");
    most_per_rank_ = most_per_rank;
    ranks_ = ranks;
  }

  // Takes what is assigned out of `candidates`; what stays in it waits for the next wave, in its order.
  std::vector<std::vector<Candidate>> Apply(std::vector<Candidate> &candidates) {
    std::vector<std::vector<Candidate>> assigned(ranks_);
    std::vector<uint64_t> load(ranks_), capacity(ranks_);
    std::vector<uint32_t> running(ranks_), slots(ranks_), lengths;
    for (size_t rank = 0; rank < ranks_; ++rank) {
      const RankLoad at = load_of_(rank);
      load[rank] = at.load_tokens;
      capacity[rank] = at.kv_capacity_tokens;
      running[rank] = at.running;
      slots[rank] = static_cast<uint32_t>(std::min<size_t>(at.free_slots, most_per_rank_));
    }
    for (const Candidate &candidate : candidates) lengths.push_back(length_of_(candidate));

    br_workers workers{};
    workers.struct_size = sizeof workers;
    workers.count = ranks_;
    workers.load_tokens = load.data();
    workers.running = running.data();
    workers.free_slots = slots.data();
    workers.kv_capacity_tokens = capacity.data();
    br_requests requests{};
    requests.struct_size = sizeof requests;
    requests.count = lengths.size();
    requests.prompt_tokens = lengths.data();
    std::vector<uint32_t> row(lengths.size()), worker(lengths.size());
    br_answer answer{};
    answer.struct_size = sizeof answer;
    answer.capacity = row.size();
    answer.row = row.data();
    answer.worker = worker.data();
    if (br_assign(assigner_, &workers, &requests, nullptr, &answer) != BR_OK) {
      std::string error(256, '\0');
      br_assigner_error(assigner_, error.data(), error.size());
      throw std::runtime_error(error.c_str());
    }

    std::vector<bool> gone(candidates.size());
    for (size_t at = 0; at < answer.count; ++at) {
      assigned[worker[at]].push_back(candidates[row[at]]);
      gone[row[at]] = true;
    }
    size_t kept = 0;
    for (size_t at = 0; at < candidates.size(); ++at) {
      if (!gone[at]) std::swap(candidates[kept++], candidates[at]);
    }
    candidates.resize(kept);
    return assigned;
  }

 private:
  LoadOf load_of_;
  LengthOf length_of_;
  br_assigner *assigner_ = nullptr;
  size_t most_per_rank_ = 0;
  size_t ranks_ = 1;
};

}  // namespace balanceroute
