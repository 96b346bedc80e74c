"use strict";
// Talks to the routes beside it. All that comes from there is shown as text, never as markup.
const at = id => document.getElementById(id);
const made = (tag, text = "", kind = "") => {
  const place = document.createElement(tag);
  place.textContent = text;
  place.className = kind;
  return place;
};
let models = [], base = null, chosen = [], talks = [], asking = null;

const asked = async (path, options = {}) => {
  const headers = { "Content-Type": "application/json" };
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message ?? `the server answered ${answer.status}`);
};

const bytes = count => {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit++) count /= 1000;
  return `${count.toFixed(unit ? 1 : 0)} ${units[unit]}`;
};

const choice = (place, name, told, on, changed) => {
  const label = made("label"), box = made("input");
  box.type = "checkbox";
  box.value = name;
  box.checked = on;
  box.addEventListener("change", () => changed(box));
  label.append(box, ` ${name} `, made("small", told));
  place.append(label);
};

// What each column asks: the chosen cartridges as one, the corpus in the context, the bare model.
const begin = () => {
  asking?.abort();
  const wanted = [...at("beside").querySelectorAll("input:checked")].map(box => box.value);
  const sides = chosen.length ? [chosen.join("+")] : [];
  for (const name of wanted) if (!sides.includes(name)) sides.push(name);
  if (!sides.length) sides.push(base.id);
  talks = sides.map(model => {
    const place = made("article");
    place.append(made("h2", model === base.id ? `${model} (no cartridge)` : model));
    return { model, place, messages: [] };
  });
  at("talks").replaceChildren(...talks.map(talk => talk.place));
};

const besides = () => {
  const before = new Set([...at("beside").querySelectorAll("input:checked")].map(box => box.value));
  at("beside").querySelectorAll("label").forEach(label => label.remove());
  for (const model of models.filter(one => one.corpus_of && chosen.includes(one.corpus_of)))
    choice(at("beside"), model.id, "the corpus in the context (ICL)", before.has(model.id), begin);
  choice(at("beside"), base.id, "nothing in front", before.has(base.id), begin);
};

const load = async () => {
  models = (await (await asked("v1/models")).json()).data;
  base = models.find(one => !one.parent);
  chosen = chosen.filter(name => models.some(one => one.id === name));
  at("cartridges").querySelectorAll("label, p").forEach(place => place.remove());
  for (const model of models.filter(one => one.cartridge)) {
    const { num_tokens, corpus, compression } = model.cartridge;
    const told = [`${num_tokens} positions`, corpus, compression && `${compression.toFixed(1)}× smaller than its corpus`];
    choice(at("cartridges"), model.id, told.filter(Boolean).join(", "), chosen.includes(model.id), box => {
      chosen = box.checked ? [...chosen, box.value] : chosen.filter(name => name !== box.value);
      besides();
      begin();
    });
  }
  if (!models.some(one => one.cartridge)) at("cartridges").append(made("p", "There is none in the folder.", "soft"));
  besides();
  begin();
};

// The data of each server-sent event, however they are cut into pieces.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let part; !(part = await reader.read()).done;) {
    const lines = (held + part.value).split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

// The recorded conversations nearest to a reply: what taught it, and a passage to check it by.
const sources = async (talk, text, signal) => {
  const body = JSON.stringify({ model: talk.model, text });
  const { data } = await (await asked("v1/cartridges/sources", { method: "POST", body, signal })).json();
  if (!data.length) return;
  const place = made("details"), list = made("ol");
  for (const one of data) {
    const where = one.chunk_start_token === null ? "" : `, from token ${one.chunk_start_token} of its corpus`;
    const item = made("li", `${one.question} — ${one.answer}`);
    item.append(made("div", one.chunk, "said chunk"), made("small", `${one.cartridge}${where}; nearness ${one.nearness}`));
    list.append(item);
  }
  place.append(made("summary", "What taught this"), list);
  talk.place.append(place);
};

const answer = async (talk, question, signal) => {
  const said = made("div", question, "said user"), reply = made("div", "…", "said"), figures = made("div", "", "figures soft");
  talk.place.append(said, reply, figures);
  const messages = [...talk.messages, { role: "user", content: question }];
  const begun = performance.now();
  let text = "", first = 0, usage = null;
  const told = end => {
    const seconds = ((performance.now() - begun) / 1000).toFixed(2);
    const kv = usage && (usage.prompt_tokens + usage.completion_tokens) * base.kv_bytes_per_token;
    const read = usage && `${usage.prompt_tokens} positions read, ${usage.prompt_tokens_details.cached_tokens} of them cached`;
    const parts = [`${seconds} s`, first && `first ${(first / 1000).toFixed(2)} s`, read,
      usage && `${usage.completion_tokens} tokens written`, kv && `KV ${bytes(kv)}`, end];
    figures.textContent = parts.filter(Boolean).join(" · ");
  };
  try {
    const body = { model: talk.model, messages, stream: true, stream_options: { include_usage: true },
      temperature: Number(at("temperature").value), max_tokens: Number(at("longest").value) };
    const streamed = await asked("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    const routed = streamed.headers.get("X-Lit-Cartridges-Router") ?? "";
    const without = routed.startsWith("off-corpus");
    if (without) reply.before(made("p", `Not about the corpus (${routed.split("; ").slice(1).join(", ")}): answered without the cartridge.`, "soft"));
    for await (const data of events(streamed.body)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const piece = event.choices[0]?.delta.content ?? "";
      if (piece) first ||= performance.now() - begun;
      reply.textContent = text += piece;
    }
    talk.messages = [...messages, { role: "assistant", content: text }];
    told("");
    if (talk.model === chosen.join("+") && !without) await sources(talk, `${question} ${text}`, signal);
  } catch (error) {  // the question is forgotten, and the chat goes on
    reply.textContent = text;
    told("stopped");
    if (error.name !== "AbortError") talk.place.append(made("p", error.message, "wrong"));
  }
};

const ask = async () => {
  const question = at("question").value.trim();
  if (!question || asking) return;
  asking = new AbortController();
  at("trouble").textContent = at("question").value = "";
  at("send").disabled = true;
  at("stop").disabled = false;
  document.body.dataset.state = "asking";
  await Promise.all(talks.map(talk => answer(talk, question, asking.signal)));
  asking = null;
  at("send").disabled = false;
  at("stop").disabled = true;
  document.body.dataset.state = "answered";
};

const tried = work => work().catch(error => { at("trouble").textContent = error.message; });
at("ask").addEventListener("submit", event => { event.preventDefault(); tried(ask); });
at("settings").addEventListener("submit", event => event.preventDefault());
at("question").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); tried(ask); }
});
at("stop").addEventListener("click", () => asking?.abort());
at("anew").addEventListener("click", begin);
at("key").addEventListener("change", () => { at("trouble").textContent = ""; tried(load); });
tried(load).then(() => { document.body.dataset.state = "ready"; at("question").focus(); });
