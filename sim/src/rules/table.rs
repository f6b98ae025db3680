//! The table of rules.

use balanceroute::policy::NAMES;

use super::Decides::{Arrival, Step};
use super::Need::{KnownEnds, KvCapacity, Predictions, PrefixHashes, PromptHashes, Sessions, StepLaw};
use super::{Decides, Need, RuleInfo};

const fn rule(
    name: &'static str,
    decides: Decides,
    needs: &'static [Need],
    used_by: &'static str,
    about: &'static str,
) -> RuleInfo {
    RuleInfo {
        name,
        aliases: &[],
        in_library: true,
        ours: false,
        decides,
        needs,
        used_by,
        about,
        ours_to_choose: None,
    }
}

const fn engine(alias: &'static [&'static str], rule: RuleInfo) -> RuleInfo {
    RuleInfo { aliases: alias, ..rule }
}

const fn ours(rule: RuleInfo) -> RuleInfo {
    RuleInfo { ours: true, ..rule }
}

/// Simulated only.
const fn neighbour(rule: RuleInfo, ours_to_choose: &'static str) -> RuleInfo {
    let open = if ours_to_choose.is_empty() { None } else { Some(ours_to_choose) };
    RuleInfo { in_library: false, ours_to_choose: open, ..rule }
}

const PAPER: &str = "BalanceRoute, arXiv 2605.06113";
const PROJECT: &str = "this project";

/// Those of the library in its order, then the neighbours.
pub(super) const RULES: [RuleInfo; NAMES.len() + 8] = [
    rule("random", Arrival, &[], "a baseline", "a rank drawn at random"),
    rule("round-robin", Arrival, &[], "proxies, vLLM router", "the next rank in turn"),
    rule("power-of-two", Arrival, &[], "SGLang and vLLM routers", "the lighter of two ranks drawn at random"),
    rule("jsq", Arrival, &[], "a baseline of the paper", "the rank with fewest requests"),
    rule("vllm-legacy", Arrival, &[], "vLLM before 0.33", "least 4 * queued + running requests"),
    engine(
        &["vllm"],
        rule(
            "vllm-0.33",
            Arrival,
            &[KvCapacity],
            "vLLM 0.33",
            "least requests, queues weighed by KV use, on statistics that lag",
        ),
    ),
    engine(
        &["sglang"],
        rule(
            "sglang-total-tokens",
            Arrival,
            &[],
            "SGLang 0.5",
            "fewest KV tokens in use, queued and just dispatched",
        ),
    ),
    rule("least-kv", Step, &[], "a baseline", "the least-loaded worker takes the earliest request"),
    rule("longest-first", Step, &[], "TensorRT-LLM", "the oldest few, longest first, to the least load"),
    rule("br0", Step, &[], PAPER, "greatest F, in two stages"),
    rule("brh-survival", Step, &[Predictions], PAPER, "F over a horizon, ends by age"),
    rule("brh-exactmatch", Step, &[Predictions, PromptHashes], PAPER, "F over a horizon, ends by prompt"),
    rule("brh-oracle", Step, &[KnownEnds], PAPER, "F over a horizon, true ends"),
    ours(rule("exact", Step, &[], PROJECT, "greatest F of all pairs, again and again")),
    ours(rule("exact-survival", Step, &[Predictions], PROJECT, "the same over a horizon, ends by age")),
    ours(rule("exact-oracle", Step, &[KnownEnds], PROJECT, "the same over a horizon, true ends")),
    ours(rule("level", Step, &[], PROJECT, "brings every worker to one common level")),
    ours(rule(
        "level-exactmatch",
        Step,
        &[Predictions, PromptHashes],
        PROJECT,
        "level on peaks to come, ends by prompt",
    )),
    ours(rule("level-oracle", Step, &[KnownEnds], PROJECT, "level on peaks to come, true ends")),
    ours(rule("rollout-oracle", Step, &[KnownEnds], PROJECT, "level-oracle that plays its best ahead")),
    neighbour(
        rule(
            "ascend-proxy",
            Arrival,
            &[],
            "vLLM-Ascend's P/D proxy",
            "least prompt tokens in flight, from arrival to end",
        ),
        "sizes are prompt tokens, where the proxy counts bytes of the body",
    ),
    neighbour(
        rule(
            "bucket",
            Arrival,
            &[],
            "vLLM-Ascend's P/D proxy",
            "two groups of ranks, prompts below and from 32,768 tokens; a group with less load helps out",
        ),
        "half of the ranks each; a load is prompt tokens in flight, of a group its mean; long ends at 131072",
    ),
    neighbour(
        rule(
            "cache-aware",
            Arrival,
            &[PrefixHashes],
            "SGLang and vLLM routers",
            "longest cached prefix from 0.3 on; fewest requests where ranks differ by 64 and 1.5 times",
        ),
        "less than 0.3 goes to fewest requests; a cache is what was sent there last",
    ),
    neighbour(
        rule(
            "llm-d",
            Arrival,
            &[PrefixHashes, KvCapacity],
            "llm-d",
            "greatest 3 * prefix + 2 * queue + 2 * (1 - KV use)",
        ),
        "lots among equals; statistics are fresh; a cache is what was sent there last",
    ),
    neighbour(
        rule(
            "dualmap",
            Arrival,
            &[PrefixHashes],
            "DualMap, arXiv 2602.06502",
            "of two ranks by two hashes of the prefix the one that keeps more, below 2 s to first token; \
             moves who waits",
        ),
        "limit and 4 blocks of prefix; 64 tokens a rank; the time is that of the queue, one end a slot in a \
         mean output; without hashes a request is its own prefix",
    ),
    neighbour(
        rule(
            "block",
            Arrival,
            &[KnownEnds, StepLaw],
            "Block, arXiv 2508.03611",
            "the rank that would finish the request first, each played ahead by itself",
        ),
        "true outputs, or a lognormal error of --noise-sigma; a future preempts nobody",
    ),
    neighbour(
        rule(
            "hash-ring",
            Arrival,
            &[Sessions, PrefixHashes],
            "DPA load balancer, arXiv 2308.00938",
            "sessions on a ring; the longest queue loses half of its tokens, or all others double theirs",
        ),
        "8 tokens a rank, tau 0.2; a queue is whoever has not finished; one change in 8 arrivals a rank; \
         without sessions 4 blocks of prefix, else the request",
    ),
    neighbour(
        rule(
            "by-type",
            Arrival,
            &[],
            "fat-tree routing, arXiv 2211.11818",
            "each quarter of the prompt lengths goes round the ranks by itself",
        ),
        "types are quartiles of the whole source, known beforehand",
    ),
];
