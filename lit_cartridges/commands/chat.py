"""``lit-cartridges chat``: a conversation with a cartridge, in the terminal."""

from __future__ import annotations

import sys
from typing import Literal

from jsonargparse.typing import SecretStr

from lit_cartridges.settings import DeviceName, DTypeName, PositiveInt, Temperature, checked
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig
from lit_cartridges.terminal import printable_line


@checked
def chat_command(
    cartridges: list[str],
    *,
    model: str | None = None,
    max_new_tokens: PositiveInt = 512,
    temperature: Temperature = 0.0,
    router: Literal["auto", "off"] = "auto",
    dtype: DTypeName | None = None,
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
) -> None:
    """Ask a cartridge questions; an empty line, Ctrl-D or 'exit' ends the chat, '/new' forgets what was said.

    Args:
        cartridges: folders or Hub repositories; several are composed.
        model: the frozen model; by default the one that the cartridge names.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        router: auto answers a question that is not about the corpus without the cartridge, and says so, where the folder has a
            router (`lit-cartridges router` makes one); off always reads the cartridge.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16"; by default the cartridge's.
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub; by default the cartridge's.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model, if it needs that.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``; by default the cartridge's.
    """
    from lit_cartridges.cartridge import Cartridge
    from lit_cartridges.commands.terminal_chat import TerminalChat
    from lit_cartridges.models import hub_options, load_model, load_tokenizer
    from lit_cartridges.models.base_weights import other_weights, plain_token, with_recorded
    from lit_cartridges.routing import load_router

    cartridge = Cartridge.compose([Cartridge.from_pretrained(path) for path in cartridges])
    routers = [load_router(path) for path in cartridges] if router == "auto" else [None]
    given = {
        "dtype": dtype,
        "revision": revision,
        "token": plain_token(token),
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    name, settings = with_recorded([cartridge.provenance], model, given)
    if not name:
        raise ValueError("the cartridge does not name its model; give --model")
    setting = "--model" if model else "base_model of the cartridge"
    tokenizer = load_tokenizer(name, setting=setting, **hub_options(settings))
    frozen = load_model(name, device=device, setting=setting, **settings)
    attached = cartridge.attach(frozen, tokenizer, router=routers)
    if difference := other_weights(cartridge, frozen):
        print(printable_line(f"warning: {difference}"), file=sys.stderr)
    routed = ", for questions that its router takes for the corpus's" if all(routers) else ""
    print(
        f"{printable_line(name)} with {cartridge.num_tokens} positions in front{routed}. /new starts over, an empty line ends."
    )
    TerminalChat(attached, max_new_tokens=max_new_tokens, temperature=temperature).run()
