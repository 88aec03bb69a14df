"use strict";
// One pair: both clips, their reprojections, error maps and clouds under one clock, and the decision.
gpa.viewer = (() => {
  const { h, num } = gpa;
  const SPEEDS = [0.25, 0.5, 1, 2];
  let dialog, pair = null, sync = null, place = null, speed = 2, opening = 0, goOn = true;
  let parts = {};

  // Everything of a side that is drawn: its detail, and its reconstruction where there is one.
  const sides = async (one) => Promise.all(["winner", "loser"].map(async (kind) => {
    const candidate = one[kind];
    const chunk = await gpa.load(`details-${Math.floor(candidate.number / gpa.data.pairs.per_chunk)}`);
    const scene = candidate.reconstruction ? await gpa.load(candidate.reconstruction).catch(() => null) : null;
    return { kind, candidate, detail: chunk[candidate.number % gpa.data.pairs.per_chunk], scene };
  }));

  async function open(one) {
    const turn = ++opening;
    if (!dialog) create();
    if (!dialog.open) { dialog.showModal(); dialog.focus(); }
    const keep = sync ? sync.playing : !gpa.calm();
    close_();
    pair = one;
    history.replaceState(null, "", `#pair=${encodeURIComponent(one.id)}`);
    header();
    let both;
    try { both = await sides(one); } catch (error) { parts.stage.replaceChildren(h("p", { class: "notice" }, error.message)); return; }
    if (turn !== opening) return;
    stage(both);
    parts.aside.replaceChildren(gpa.numbers.table(both[0].detail, both[1].detail), h("details", {}, h("summary", {}, "Where it comes from"), gpa.numbers.facts(one, both[0].detail, both[1].detail)));
    clock(both, keep);
  }

  function create() {
    dialog = gpa.$("viewer");
    const button = (text, title, handler, props) => h("button", { type: "button", title, on: { click: handler }, ...props }, text);
    parts = {
      count: h("span", { class: "quiet" }), text: h("h2", {}), stage: h("div", { class: "stage" }), aside: h("aside", {}),
      play: button("Play", "Play or pause (Space)", () => sync && sync.toggle(), { class: "play" }),
      range: h("input", { type: "range", min: 0, value: 0, "aria-label": "Frame", on: { input: () => { if (sync) { sync.pause(); sync.go(Number(parts.range.value)); } } } }),
      frame: h("output", { class: "quiet" }), chart: h("div", { class: "errors" }),
      speed: h("select", { "aria-label": "Speed", on: { change: () => setSpeed(Number(parts.speed.value)) } }, SPEEDS.map((one, at) => h("option", { value: at, selected: at === speed }, `${one}×`))),
      keep: button("Keep", "The winner is the better one (K)", () => decide("keep"), { "aria-pressed": "false", data: { decision: "keep" } }),
      swap: button("Swap", "The loser is the better one (S)", () => decide("swap"), { "aria-pressed": "false", data: { decision: "swap" } }),
      drop: button("Drop", "The pair teaches nothing (D)", () => decide("drop"), { "aria-pressed": "false", data: { decision: "drop" } }),
      hint: h("span", {}, "Line: error of each frame. Drag a cloud to turn both, wheel or pinch to zoom, ⇧ drag to move, double click to go back."),
      advance: h("input", { type: "checkbox", checked: true, on: { change: () => { goOn = parts.advance.checked; } } }),
    };
    dialog.append(
      h("header", { class: "top" },
        h("div", { class: "steps" }, button("←", "Previous pair (←)", () => move(-1), { class: "icon", "aria-label": "Previous pair" }), button("→", "Next pair (→)", () => move(1), { class: "icon", "aria-label": "Next pair" }), parts.count),
        parts.text,
        h("div", { class: "decide", role: "group", "aria-label": "Decision" }, parts.keep, parts.swap, parts.drop),
        button("×", "Close (Esc)", () => dialog.close(), { class: "icon close", "aria-label": "Close" })),
      h("div", { class: "body" },
        h("div", { class: "main" }, parts.stage,
          h("div", { class: "transport" }, parts.play, h("div", { class: "track" }, parts.chart, parts.range), parts.frame, parts.speed),
          h("p", { class: "quiet hint" }, h("label", {}, parts.advance, " go on after a decision"), parts.hint)),
        parts.aside));
    dialog.addEventListener("close", closed);
    dialog.addEventListener("keydown", keys);
  }

  function header() {
    const all = gpa.gallery.shown.includes(pair) ? gpa.gallery.shown : gpa.gallery.all;
    parts.count.textContent = `${all.indexOf(pair) + 1} / ${all.length}`;
    parts.text.textContent = pair.prompt.text;
    parts.text.title = pair.prompt.text;
    marks();
  }

  function marks() {
    const word = gpa.decisions.word(pair.key);
    for (const name of ["keep", "swap", "drop"]) parts[name].setAttribute("aria-pressed", String(word === name));
    dialog.dataset.decision = word || "";
  }

  // Rows are winner and loser, columns what is looked at; on a phone the other way round.
  function stage(both) {
    parts.stage.replaceChildren();
    place = gpa.cloud.shared();
    const panels = both.some((one) => one.scene) ? ["clip", "reprojection", "error", "cloud"] : both.some((one) => one.detail.w2c.length) ? ["clip", "cloud"] : ["clip"];
    // A reward without cameras leaves the clips alone, side by side.
    const alone = panels.length === 1;
    parts.stage.style.setProperty("--panels", alone ? 2 : panels.length);
    parts.stage.classList.toggle("alone", alone);
    parts.hint.hidden = alone;
    both.forEach((side, row) => panels.forEach((panel, column) => {
      const node = h("figure", { class: `cell ${side.kind}`, vars: { "--side": alone ? 1 : row + 1, "--panel": alone ? row + 1 : column + 1, "--aspect": `${side.candidate.width} / ${side.candidate.height}` } });
      node.append(cell(side, panel), caption(side, panel));
      parts.stage.append(node);
    }));
  }

  function caption(side, panel) {
    const names = { clip: side.kind, reprojection: "reprojection", error: "error", cloud: side.scene ? "points and cameras" : "cameras" };
    const value = { clip: num(side.candidate.value), reprojection: side.scene ? "from other frames" : "", error: "", cloud: side.scene ? `${gpa.count(side.scene.kept)} points` : "gpa report --reconstructions N adds points" }[panel];
    const output = panel === "error" ? (side.said = h("span", { class: "quiet said" })) : h(panel === "clip" ? "b" : "span", { class: panel === "clip" ? null : "quiet" }, value);
    return h("figcaption", {}, h("span", { class: "name" }, names[panel]), output);
  }

  function cell(side, panel) {
    const canvas = h("canvas", { class: panel === "cloud" ? "cloud" : null, tabindex: panel === "cloud" ? 0 : null, "aria-label": panel === "cloud" ? `Point cloud of the ${side.kind}: drag, or arrow keys` : null });
    if (panel === "clip") {
      if (!side.candidate.video) return h("p", { class: "missing" }, side.candidate.reason || "no video");
      side.canvas = canvas;
    } else if (panel === "cloud") {
      const from = side.scene || side.detail;
      if (!from.w2c.length || from.w2c.some((value) => value === null)) return h("p", { class: "missing" }, "This reward recorded no cameras.");
      const size = side.scene ? side.scene.size : [2 * from.intrinsics[2] + 1, 2 * from.intrinsics[5] + 1];
      side.view = new gpa.cloud.View(canvas, gpa.cloud.scene(from.w2c, from.intrinsics, size, side.scene), place);
    } else {
      if (!side.scene) return h("p", { class: "missing" }, "not reconstructed");
      side[panel] = tiles(canvas, side.scene, panel === "error" ? side.scene.frames : 0);
    }
    return canvas;
  }

  // Frames of an atlas: number k of a strip that begins at tile `first`.
  function tiles(canvas, scene, first) {
    const [width, height] = scene.tile;
    Object.assign(canvas, { width, height });
    canvas.classList.toggle("pixelated", Math.min(width, height) < 200);
    const context = canvas.getContext("2d"), image = new Image();
    let at = 0;
    const draw = () => {
      const tile = first + at;
      if (image.complete && image.naturalWidth) context.drawImage(image, (tile % scene.columns) * width, Math.floor(tile / scene.columns) * height, width, height, 0, 0, width, height);
    };
    image.onload = draw;
    image.src = scene.atlas;
    return (number) => { at = number; draw(); };
  }

  function clock(both, playing) {
    const clips = both.filter((one) => one.canvas).map((one) => new gpa.player.Clip(one.candidate, one.canvas));
    parts.chart.replaceChildren();
    if (!clips.length) return;
    const count = Math.max(...clips.map((one) => one.spec.frames));
    const lines = both.map((one) => ({ kind: one.kind, at: one.detail.frame_indices, values: one.detail.frame_errors }));
    const chart = gpa.charts.frames(Math.max(160, parts.chart.clientWidth), 44, lines, count);
    chart.svg.addEventListener("pointerdown", (event) => { if (sync) { sync.pause(); sync.go(chart.frameAt(event.offsetX)); } });
    parts.chart.append(chart.svg);
    parts.range.max = count - 1;
    const mine = new gpa.player.Sync(clips, (at) => {
      parts.play.textContent = mine.playing ? "Pause" : "Play";
      if (at < 0) return;
      parts.range.value = at;
      parts.frame.textContent = `${at + 1} / ${count}`;
      chart.go(at);
      both.forEach((one) => follow(one, at));
    });
    sync = mine;
    setSpeed(speed);
    mine.go(0).then(() => { if (playing && sync === mine) mine.play(); }).catch((error) => gpa.toast(error.message));
  }

  // The used frame that is nearest to the one shown.
  function follow(side, at) {
    const indices = (side.scene || side.detail).frame_indices;
    if (!indices.length) return;
    const number = indices.reduce((best, value, i) => (Math.abs(value - at) < Math.abs(indices[best] - at) ? i : best), 0);
    if (side.view) side.view.show(number);
    if (side.reprojection) side.reprojection(number);
    if (side.error) { side.error(number); side.said.textContent = `mean ${num(side.scene.tile_errors[number], 2)}`; }
  }

  function setSpeed(at) {
    speed = Math.min(SPEEDS.length - 1, Math.max(0, at));
    parts.speed.value = speed;
    if (sync) sync.speed = SPEEDS[speed];
  }

  function move(by) {
    const all = gpa.gallery.shown.includes(pair) ? gpa.gallery.shown : gpa.gallery.all;
    const next = all[all.indexOf(pair) + by];
    if (next) open(next); else gpa.toast(by > 0 ? "This is the last pair" : "This is the first pair");
  }

  function decide(word) {
    const same = word === gpa.decisions.word(pair.key);
    gpa.decisions.set(pair.key, same ? null : word);
    gpa.gallery.mark(pair);
    marks();
    if (word && !same && goOn) move(1);
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const actions = {
      ArrowLeft: () => move(-1), ArrowRight: () => move(1), " ": () => sync && sync.toggle(),
      ",": () => sync && sync.step(-1), ".": () => sync && sync.step(1), "[": () => setSpeed(speed - 1), "]": () => setSpeed(speed + 1),
      k: () => decide("keep"), s: () => decide("swap"), d: () => decide("drop"), u: () => { gpa.decisions.set(pair.key, null); gpa.gallery.mark(pair); marks(); },
      a: () => { goOn = parts.advance.checked = !goOn; gpa.toast(goOn ? "Goes on after a decision" : "Stays after a decision"); }, r: () => place && place.reset(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || (event.target === parts.range && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  function close_() {
    if (sync) sync.close();
    sync = null;
  }

  function closed() {
    opening++;
    close_();
    history.replaceState(null, "", "#pairs");
    const last = pair;
    pair = null;
    gpa.gallery.focus(last);
  }

  // `state` is for whoever wants to see that both clips show one frame.
  return { open, state: () => sync && { at: sync.at, frames: sync.frames, playing: sync.playing, pair: pair && pair.id } };
})();
