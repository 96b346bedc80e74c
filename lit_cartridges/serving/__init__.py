"""An OpenAI API in front of a folder of cartridges: each under its own name, several composed as ``a+b``, none by the model's.

Words: the *shelf* is the folder; what a request names on it is *taken* (files checked, tensors on the model's device) and
*resident* until it is given back and room is wanted; a *job* is one request's rows in the engine's batch.

    body → `fields`, `asked` → ChatAsked | CompletionAsked          refused with 400 where it would be computed wrongly
    names → `Shelf` → `Residents.take` → Resident                   refused with 404, 400 or 503
    messages → `Prompts` (ChatRenderer) → token ids
    Job → `LocalEngine` (one thread, one batch for all) → tokens    from `teachers/row_batch`, rows behind different cartridges
    tokens → `Replies`, `ReplyText` → text → `answers` → JSON or server-sent events

`service` is the way down this list. `app` has the routes, `guard` stands in front of them, `page` is for people and asks the same
routes, `sources` finds what taught a reply, `running` starts and ends the server. The engine knows tokens alone; `vllm`
has the one that hands the same jobs to vLLM.
"""
