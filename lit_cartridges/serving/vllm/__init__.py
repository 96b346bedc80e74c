"""Cartridges on stock vLLM: the same API in front, and vLLM's server, which no client reaches, behind it.

Our own `App` answers the requests, checks files and names, and makes the prompts, as it does for `LocalEngine`; so requests,
refusals and answers are the same on both engines, and what would be computed wrongly (prompt_logprobs, a client's own
kv_transfer_params, vLLM's other routes) has no way in. A middleware inside vLLM's server would have to close each of its routes.

    Shelf, `SpooledResidents`   a checked cartridge, or several as one, becomes a file under a random name      (this process)
    Job → `VLLMEngine`          placeholders + the prompt's ids, that name as cache salt and kv_transfer_params  (this process)
    `Wanted`                    the first positions are "computed elsewhere"; which blocks they have            (vLLM's scheduler)
    `OpenCartridges`            keys and values of these positions, written by the attention backend's own code  (vLLM's workers)

`CartridgeConnector` is the two last ones, given to vLLM by its own options: no fork, and nothing of vLLM's is replaced. What it
imports (`placement`, `wanted`, `spool`) needs torch and safetensors alone, so vLLM's environment holds nothing of ours.
The salt keeps the blocks of different cartridges apart, whose placeholders are the same tokens.
"""
