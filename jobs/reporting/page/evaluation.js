"use strict";
// Evaluations: every table that was written, and the clips of all models beside each other.
gpa.evaluation = (host, evaluations) => {
  const { h, s, num, signed, percent } = gpa;

  const isRow = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const isTable = (value) => Array.isArray(value) && value.length > 0 && value.every(isRow);
  const isInterval = (value) => isRow(value) && ["mean", "low", "high"].every((name) => name in value);
  const isMeasured = (rows) => rows.every((row) => "measure" in row && isInterval(row.difference));

  // Any list of objects in the result is a table, titled by where it lies.
  const tables = (value, path = []) => {
    if (isTable(value)) return [[path, value]];
    if (!isRow(value)) return [];
    return Object.entries(value).flatMap(([name, inner]) => tables(inner, [...path, name]));
  };
  const scalars = (value) => Object.entries(value).filter(([, one]) => one !== null && (typeof one !== "object" || (Array.isArray(one) && one.length && one.every((part) => typeof part !== "object"))));

  const direction = (row) => {
    if (typeof row.better === "number") return row.better;
    if (!isInterval(row.win_rate) || row.win_rate.mean === 0.5) return 0;
    return (row.win_rate.mean > 0.5) === (row.difference.mean > 0) ? 1 : -1;
  };

  // The interval of a difference on a line through zero, each row in its own scale.
  const forest = (interval, verdict) => {
    const reach = Math.max(Math.abs(interval.low), Math.abs(interval.high), 1e-12) * 1.1;
    const x = (value) => 60 + (58 * value) / reach;
    return s("svg", { class: `forest ${verdict}`, width: 120, height: 14, viewBox: "0 0 120 14", "aria-hidden": "true" },
      s("line", { class: "zero", x1: 60, x2: 60, y1: 0, y2: 14 }), s("line", { class: "span", x1: x(interval.low), x2: x(interval.high), y1: 7, y2: 7 }), s("circle", { cx: x(interval.mean), cy: 7, r: 3 }));
  };

  const share = (interval) => (isInterval(interval) ? `${percent(interval.mean)} [${percent(interval.low)}, ${percent(interval.high)}]` : "");
  const measured = (rows, about, truth) => {
    const clips = rows.some((row) => isInterval(row.clip_win_rate)), spread = rows.some((row) => isRow(row.spread)), ofBase = rows.some((row) => isInterval(row.share));
    return h("table", { class: "measures" },
    h("thead", {}, h("tr", {}, ["measure", truth && "true clips", "base", "adapter", "difference, 95 % interval", "", ofBase && "of base", "prompts better", clips && "clips better", spread && "trainings", "prompts"].filter((name) => typeof name === "string").map((name) => h("th", { scope: "col", class: name && name !== "measure" ? "number" : null }, name)))),
    h("tbody", {}, rows.map((row) => {
      const better = direction(row), { mean, low, high } = row.difference;
      const clear = low > 0 || high < 0;
      const verdict = !clear || !better ? "open" : Math.sign(mean) === better ? "good" : "bad";
      return h("tr", { class: verdict, title: about[row.measure] }, h("th", { scope: "row" }, row.measure, better ? h("small", {}, better > 0 ? " ↑" : " ↓") : null, about[row.measure] && h("span", { class: "about" }, about[row.measure])),
        truth && h("td", { class: "number quiet" }, row.measure in truth ? num(truth[row.measure], 4) : ""), h("td", { class: "number" }, num(row.base, 4)), h("td", { class: "number" }, num(row.adapter, 4)),
        h("td", { class: "number" }, `${signed(mean)} `, h("span", { class: "quiet" }, `[${signed(low)}, ${signed(high)}]`)), h("td", {}, forest(row.difference, verdict)), ofBase && h("td", { class: "number" }, share(row.share)),
        h("td", { class: "number" }, share(row.win_rate)), clips && h("td", { class: "number" }, share(row.clip_win_rate)),
        spread && h("td", { class: "number quiet" }, isRow(row.spread) ? `${row.spread.trainings}: ${signed(row.spread.difference_min)} to ${signed(row.spread.difference_max)}` : ""),
        h("td", { class: "number quiet" }, gpa.count(row.prompts)));
    })));
  };

  const cell = (value) => {
    if (isInterval(value)) return `${num(value.mean)} [${num(value.low)}, ${num(value.high)}]`;
    if (typeof value === "number") return Number.isInteger(value) ? gpa.count(value) : num(value, 4);
    return value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  const plain = (rows) => {
    const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return h("table", { class: "measures" }, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name.replaceAll("_", " "))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((name) => h("td", { class: typeof row[name] === "number" ? "number" : null }, cell(row[name])))))));
  };

  const clips = (group) => {
    const canvases = group.clips.map(() => h("canvas", { "aria-hidden": "true" }));
    const playable = group.clips.map((one, at) => [one, canvases[at]]).filter(([one]) => one.video);
    const node = h("div", { class: "together", tabindex: 0, role: "group", "aria-label": `Clips of: ${group.text}` }, group.clips.map((one, at) =>
      h("figure", { class: "clip" }, h("span", { class: "side", vars: { "--aspect": `${one.width} / ${one.height}` } },
        one.still ? h("img", { src: one.still, alt: "", loading: "lazy", class: Math.min(one.width, one.height) < 256 ? "pixelated" : null }) : h("span", { class: "missing" }, one.reason || "no video"), canvases[at]), h("figcaption", {}, one.name))));
    const preview = playable.length && gpa.player.preview(node, playable.map(([one]) => one), playable.map(([, canvas]) => canvas));
    if (preview) {
      node.addEventListener("click", () => preview.toggle());
      node.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") { event.preventDefault(); preview.toggle(); } });
    }
    return h("article", { class: "group" }, h("p", { class: "prompt" }, group.text, h("small", { class: "quiet" }, ` seed ${group.seed}`)), node);
  };

  host.append(gpa.title("Evaluation", h("span", { class: "tally" }, gpa.plural(evaluations.length, "evaluation"))));
  for (const one of evaluations) {
    const said = (name, value) => (value.startsWith(name) ? value : `${name.replaceAll("_", " ")} ${value}`);
    const facts = scalars(one.result).map(([name, value]) => said(name, Array.isArray(value) ? value.join(", ") : cell(value))).join("  ·  ");
    const all = tables(one.result).sort(([, a], [, b]) => isMeasured(b) - isMeasured(a)), results = h("div", {});
    // Tables of all clips and of those that move are two views of one thing.
    const both = all.some(([path]) => path[0] === "filtered") && all.some(([path]) => path[0] === "tables");
    const truth = isRow(one.result.truth) && Object.keys(one.result.truth).length ? one.result.truth : null;
    const draw = (part) => results.replaceChildren(...all.filter(([path]) => !both || !["tables", "filtered"].includes(path[0]) || path[0] === part).map(([path, rows]) => h("div", { class: "result" },
      h("h4", {}, path.filter((name) => !["tables", "filtered"].includes(name)).join(" / ") || "table", isMeasured(rows) && h("small", { class: "quiet" }, " against base, the same seeds")),
      gpa.scroll(isMeasured(rows) ? measured(rows, one.about, truth) : plain(rows), `Results of ${one.name}`))));
    const select = both && h("select", { "aria-label": "Clips", on: { change: () => draw(select.value) } }, h("option", { value: "tables" }, "all clips"), h("option", { value: "filtered" }, "without clips that stand still"));
    draw("tables");
    host.append(h("article", { class: "evaluation" }, h("h3", {}, one.name, select, facts && h("small", { class: "quiet" }, facts)),
      one.note && h("p", { class: "notice" }, one.note), gpa.trade(one.result), results,
      one.groups.length ? [h("h4", {}, "Clips", h("small", { class: "quiet" }, " the same prompt and seed; point at a row, or press Space on it, to play it in step")), h("div", { class: "groups" }, one.groups.map(clips))] : null));
  }
};
