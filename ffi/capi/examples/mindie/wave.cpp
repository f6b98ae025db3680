// Waves over eight ranks that decode numbers: every request is assigned once, no rank takes more than it may,
// and the KV tokens stay level.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "balanceroute_policy.hpp"

struct Sequence {
  int id;
  uint32_t tokens;
};
using SequencePtr = std::shared_ptr<Sequence>;

#define CHECK(what)                                              \
  do {                                                           \
    if (!(what)) {                                               \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
      std::exit(1);                                              \
    }                                                            \
  } while (0)

int main() {
  constexpr size_t kRanks = 8, kWaves = 40, kPerRank = 4;
  constexpr uint32_t kSlots = 160;
  constexpr uint64_t kCapacity = 200000;
  std::vector<balanceroute::RankLoad> ranks(kRanks, {0, 0, kSlots, kCapacity});
  ranks[3] = {30000, 40, kSlots - 40, kCapacity};

  balanceroute::WavePolicy<SequencePtr> policy([&](size_t rank) { return ranks[rank]; },
                                               [](const SequencePtr &one) { return one->tokens; });
  policy.SetConstraint(kPerRank, kRanks);

  std::vector<SequencePtr> candidates;
  std::vector<int> times(kWaves * 24);
  int next = 0;
  uint64_t state = 1;
  for (size_t wave = 0; wave < kWaves; ++wave) {
    for (int i = 0; i < 24; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      candidates.push_back(
          std::make_shared<Sequence>(Sequence{next++, 20 + static_cast<uint32_t>(state >> 33) % 2000}));
    }
    const auto assigned = policy.Apply(candidates);
    CHECK(assigned.size() == kRanks);
    for (size_t rank = 0; rank < kRanks; ++rank) {
      CHECK(assigned[rank].size() <= kPerRank);
      for (const SequencePtr &one : assigned[rank]) {
        ++times[one->id];
        ranks[rank].load_tokens += one->tokens;
        ++ranks[rank].running;
        --ranks[rank].free_slots;
      }
      // A decode step: a token for each.
      ranks[rank].load_tokens += ranks[rank].running;
      CHECK(ranks[rank].load_tokens <= kCapacity);
    }
  }
  for (const SequencePtr &one : candidates) ++times[one->id];
  for (const int count : times) CHECK(count == 1);
  uint64_t least = UINT64_MAX, most = 0;
  for (const auto &rank : ranks) {
    least = std::min(least, rank.load_tokens);
    most = std::max(most, rank.load_tokens);
  }
  std::printf("%zu waves, %zu wait, fullest rank %llu, emptiest %llu tokens\n", kWaves, candidates.size(),
              static_cast<unsigned long long>(most), static_cast<unsigned long long>(least));
  CHECK(most - least < most / 20);

  try {
    balanceroute::WavePolicy<int> unknown([](size_t) { return balanceroute::RankLoad{}; },
                                          [](int) { return 1u; }, "no-such-policy");
    CHECK(!"an unknown policy is refused");
  } catch (const std::invalid_argument &error) {
    CHECK(std::string(error.what()).find("no-such-policy") != std::string::npos);
  }
  return 0;
}
