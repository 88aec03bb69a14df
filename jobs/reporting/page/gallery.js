"use strict";
// The pairs: filters, order, cards that play under the pointer, and decisions from the keyboard.
gpa.gallery = (() => {
  const { h, num } = gpa;
  const AT_ONCE = 60;
  const self = { all: [], shown: [], filters: {} };
  let host, grid, tally, sentinel, drawn = 0, cards = new Map();

  const pairs = (data) => data.pairs.id.map((id, at) => {
    const candidate = (number) => Object.fromEntries(Object.entries(data.candidates).map(([name, values]) => [name, values[number]]).concat([["number", number]]));
    const [winner, loser, prompt] = [candidate(data.pairs.winner[at]), candidate(data.pairs.loser[at]), data.prompts[data.pairs.prompt[at]]];
    const ratio = loser.motion > 0 && gpa.known(winner.motion) ? winner.motion / loser.motion : null;
    return {
      id, at, winner, loser, prompt, ratio, gap: data.pairs.gap[at], split: data.pairs.split[at], human: data.pairs.human[at],
      text: prompt.text.toLowerCase(),
      ids: `${prompt.id} ${prompt.scene} ${id} ${winner.id} ${loser.id}`.toLowerCase(),
      key: { prompt: prompt.id, winner: winner.id, loser: loser.id },
    };
  });

  // How many of the two sides have a reconstruction.
  const views = (pair) => [pair.winner, pair.loser].filter((one) => one.reconstruction).length;
  const ONLY = {
    "": ["all", () => true],
    reconstructed: ["with a 3D view", (pair) => views(pair)],
    slower: ["winner moves less", (pair) => pair.ratio !== null && pair.ratio < 1],
    softer: ["winner is softer", (pair) => pair.winner.sharpness < pair.loser.sharpness],
    human: ["decided in the shards", (pair) => pair.human],
    unplayable: ["without a video", (pair) => pair.winner.reason || pair.loser.reason],
  };
  const ORDERS = {
    reconstructed: ["with a 3D view first", (a, b) => views(b) - views(a) || b.gap - a.gap],
    widest: ["widest gap", (a, b) => b.gap - a.gap],
    narrowest: ["narrowest gap", (a, b) => a.gap - b.gap],
    best: ["best winner", (a, b) => b.winner.value - a.winner.value],
    worst: ["worst loser", (a, b) => a.loser.value - b.loser.value],
    faster: ["winner moves most, of loser", (a, b) => (b.ratio ?? -1) - (a.ratio ?? -1)],
    slower: ["winner moves least, of loser", (a, b) => (a.ratio ?? 1e9) - (b.ratio ?? 1e9)],
    prompt: ["prompt", (a, b) => (a.prompt.text < b.prompt.text ? -1 : a.prompt.text > b.prompt.text ? 1 : b.gap - a.gap)],
  };

  const field = (label, control) => h("label", { class: "field" }, h("span", {}, label), control);
  const choices = (name, entries) => h("select", { name, on: { change: apply } }, entries.map(([value, text]) => h("option", { value }, text)));

  function filters(report) {
    const splits = [...new Set(self.all.map((pair) => pair.split))].sort();
    const moves = [...new Set(self.all.flatMap((pair) => pair.prompt.camera))].sort();
    const search = h("input", { type: "search", name: "search", placeholder: "Search prompts and ids", "aria-label": "Search", on: { input: apply } });
    const gaps = self.all.map((pair) => pair.gap).sort((a, b) => a - b);
    const range = h("input", { type: "range", name: "gap", min: 0, max: 100, value: 0, "aria-label": "Least gap", on: { input: apply } });
    const said = h("output", {}, "any");
    self.leastGap = () => {
      const at = Number(range.value);
      const least = at ? gaps[Math.min(gaps.length - 1, Math.floor((gaps.length * at) / 100))] : -Infinity;
      said.textContent = at ? `≥ ${num(least)}` : "any";
      return least;
    };
    const form = h("form", { class: "filters", on: { submit: (event) => event.preventDefault(), reset: () => setTimeout(apply) } },
      h("div", { class: "search" }, search),
      field("Decision", choices("decision", [["", "any"], ["none", "undecided"], ["keep", "kept"], ["swap", "swapped"], ["drop", "dropped"]])),
      moves.length > 1 && moves.length <= 40 && field("Camera", choices("camera", [["", "any"], ...moves.map((one) => [one, one.replaceAll("_", " ")])])),
      splits.length > 1 && field("Split", choices("split", [["", "any"], ...splits.map((one) => [one, one])])),
      field("Only", choices("only", Object.entries(ONLY).map(([value, [text]]) => [value, text]))),
      h("label", { class: "field" }, h("span", {}, "Gap ", said), range),
      field("Order", choices("order", Object.entries(ORDERS).filter(([value]) => value !== "reconstructed" || self.all.some(views)).map(([value, [text]]) => [value, text]))),
      h("button", { type: "reset", class: "quiet-button" }, "Reset"));
    self.form = form;
    self.search = search;
    return form;
  }

  function apply() {
    const given = Object.fromEntries(["search", "decision", "camera", "split", "only", "order"].map((name) => [name, self.form.elements[name] ? self.form.elements[name].value : ""]));
    const words = given.search.toLowerCase().split(/\s+/).filter(Boolean);
    const least = self.leastGap();
    self.shown = self.all.filter((pair) => {
      const word = gpa.decisions.word(pair.key);
      // Ids hold any two letters somewhere: only longer words are looked for in them.
      return words.every((one) => pair.text.includes(one) || (one.length > 3 && pair.ids.includes(one)))
        && (!given.decision || (given.decision === "none" ? word === null : word === given.decision))
        && (!given.camera || pair.prompt.camera.includes(given.camera))
        && (!given.split || pair.split === given.split)
        && ONLY[given.only][1](pair) && pair.gap >= least;
    }).sort((a, b) => ORDERS[given.order][1](a, b) || a.at - b.at);
    draw();
  }

  function draw() {
    cards = new Map();
    drawn = 0;
    grid.replaceChildren();
    more();
    tally.textContent = self.shown.length === self.all.length ? gpa.plural(self.all.length, "pair") : `${gpa.count(self.shown.length)} of ${gpa.plural(self.all.length, "pair")}`;
    grid.classList.toggle("empty", !self.shown.length);
    if (!self.shown.length) grid.append(h("p", { class: "quiet" }, "No pair is left by these filters."));
  }

  function more(until = drawn + AT_ONCE) {
    const upto = Math.min(self.shown.length, until);
    grid.append(...self.shown.slice(drawn, upto).map(card));
    drawn = Math.max(drawn, upto);
    sentinel.hidden = drawn >= self.shown.length;
  }

  const side = (candidate, kind) => {
    const canvas = h("canvas", { "aria-hidden": "true" });
    const still = candidate.still ? h("img", { src: candidate.still, alt: "", loading: "lazy", decoding: "async", class: Math.min(candidate.width, candidate.height) < 256 ? "pixelated" : null })
      : h("span", { class: "missing" }, candidate.reason || "no video");
    return { canvas, node: h("span", { class: `side ${kind}`, vars: { "--aspect": `${candidate.width} / ${candidate.height}` } }, still, canvas, h("em", {}, num(candidate.value))) };
  };

  function card(pair) {
    const [winner, loser] = [side(pair.winner, "winner"), side(pair.loser, "loser")];
    const node = h("article", { class: "card", tabindex: 0, role: "button", "aria-label": `Pair: ${pair.prompt.text}, gap ${num(pair.gap)}`, data: { id: pair.id } },
      h("div", { class: "sides" }, winner.node, loser.node),
      h("p", { class: "prompt" }, pair.prompt.text),
      h("footer", {}, h("span", {}, "gap ", h("b", {}, num(pair.gap))),
        pair.ratio !== null && h("span", { title: "Camera motion of the winner over the loser's" }, "motion ", h("b", {}, `${num(pair.ratio, 2)}×`)),
        h("span", { class: "marks" }, views(pair) > 0 && h("span", { class: "tag", title: "With a 3D view" }, "3D"), h("span", { class: "badge" }))));
    if (pair.winner.video && pair.loser.video) gpa.player.preview(node, [pair.winner, pair.loser], [winner.canvas, loser.canvas]);
    node.addEventListener("click", () => gpa.viewer.open(pair));
    node.addEventListener("keydown", (event) => keys(event, pair));
    cards.set(pair.id, node);
    mark(pair);
    return node;
  }

  function mark(pair) {
    const node = cards.get(pair.id);
    if (!node) return;
    const word = gpa.decisions.word(pair.key);
    node.dataset.decision = word || "";
    const badge = node.querySelector(".badge");
    badge.textContent = word || (pair.human ? `${pair.human}, in the shards` : "");
    badge.dataset.decision = word || (pair.human ? "human" : "");
  }

  function keys(event, pair) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const decision = { k: "keep", s: "swap", d: "drop", u: null }[event.key.toLowerCase()];
    if (event.key === "Enter" || event.key === " ") gpa.viewer.open(pair);
    else if (decision !== undefined) { gpa.decisions.set(pair.key, decision); mark(pair); }
    else if (event.key.startsWith("Arrow")) move(event.key, pair);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function move(key, pair) {
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const at = self.shown.indexOf(pair) + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    if (at >= 0 && at < self.shown.length) focus(self.shown[at]);
  }

  function focus(pair) {
    const at = self.shown.indexOf(pair);
    if (at < 0) return;
    if (at >= drawn) more(at + AT_ONCE);
    const node = cards.get(pair.id);
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest" });
  }

  // Choose the first card: of those in view, if any are. Up and down scroll until a card is in view.
  function enter(key) {
    const inView = self.shown.slice(0, drawn).find((pair) => { const box = cards.get(pair.id).getBoundingClientRect(), middle = (box.top + box.bottom) / 2; return middle > 0 && middle < innerHeight; });
    const first = inView || (key === "ArrowLeft" || key === "ArrowRight" ? self.shown[0] : null);
    if (first) focus(first);
    return Boolean(first);
  }

  function open(section, data, report) {
    host = section;
    self.all = pairs(data);
    grid = h("div", { class: "grid" });
    tally = h("span", { class: "tally", "aria-live": "polite" });
    sentinel = h("div", { class: "sentinel" });
    const choice = report.choice;
    const videos = [choice.copied && `${gpa.count(choice.copied)} videos are copies for browsers`, choice.linked && `${gpa.count(choice.linked)} are the originals`, choice.missing && `${gpa.count(choice.missing)} are missing`].filter(Boolean).join(", ");
    host.append(gpa.title("Pairs", tally), h("p", { class: "quiet lead" }, `${choice.text[0].toUpperCase()}${choice.text.slice(1)}; ${videos || "no videos"}; ${gpa.plural(choice.reconstructed, "clip")} reconstructed. The number on each side is its reward. Point at a pair, or move to it with the keyboard, and both clips play in step.`),
      filters(report), grid, sentinel);
    new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) more(); }, { rootMargin: "1200px" }).observe(sentinel);
    apply();
  }

  self.open = open;
  self.mark = mark;
  self.focus = focus;
  self.enter = enter;
  self.apply = apply;
  self.byId = (id) => self.all.find((pair) => pair.id === id);
  self.openCandidate = (id) => {
    const pair = self.all.find((one) => one.winner.id === id || one.loser.id === id);
    if (pair) gpa.viewer.open(pair); else gpa.toast("This candidate is in no pair that is shown");
  };
  return self;
})();
