"""Inside engines: plugins that find their engine by themselves (`vllm`, `sglang`), and what they are made of.

`ledger` translates an engine's requests and statistics for a `balanceroute.Router`; `gate` holds requests on
an asyncio loop until the router decides; `settings` reads the environment. An engine of your own needs these
three and nothing else here.
"""
