"use strict";
// One measure against another, a point a model: what is gained, and what is paid for it. Models are told apart by
// their names beside the points and by the form of these, not by colour alone.
gpa.trade = (() => {
  const { h, s, num, signed } = gpa;
  const HEIGHT = 360, R = 6;
  // What alignment lowers first, and what it is lowered at the cost of.
  const FIRST = { y: ["error_3dcs", "error", "fault", "epipolar"], x: ["motion", "image_motion", "displacement", "sharpness"] };
  const FORMS = [
    (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
    (r) => `M0 ${-1.2 * r}L${1.2 * r} ${r}H${-1.2 * r}Z`,
    (r) => `M0 ${-1.4 * r}L${1.4 * r} 0L0 ${1.4 * r}L${-1.4 * r} 0Z`,
    (r) => `M0 ${1.2 * r}L${1.2 * r} ${-r}H${-1.2 * r}Z`,
    (r) => `M${-r} ${-r / 3}H${-r / 3}V${-r}H${r / 3}V${-r / 3}H${r}V${r / 3}H${r / 3}V${r}H${-r / 3}V${r / 3}H${-r}Z`,
  ];
  const COLORS = 6;

  const isRow = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const isMeasured = (rows) => Array.isArray(rows) && rows.length > 0 && rows.every((row) => isRow(row) && typeof row.measure === "string" && gpa.known(row.adapter) && gpa.known(row.base) && isRow(row.difference));

  // The points of an evaluation: of every model its means by measure, with the interval of the difference from the
  // base around them. Trainings of a group lie behind it, without names.
  const points = (result) => {
    const tables = Object.entries(isRow(result.tables) ? result.tables : {}).filter(([, rows]) => isMeasured(rows));
    const groups = new Set(tables.filter(([, rows]) => rows.some((row) => isRow(row.spread))).map(([name]) => name));
    const found = tables.map(([name, rows]) => ({
      name, kind: groups.has(name.split("/")[0]) && name.includes("/") ? "training" : "model",
      at: Object.fromEntries(rows.map((row) => [row.measure, { mean: row.adapter, low: row.base + row.difference.low, high: row.base + row.difference.high, better: row.better }])),
    }));
    if (!tables.length) return found;
    const base = Object.fromEntries(tables.flatMap(([, rows]) => rows).reverse().map((row) => [row.measure, { mean: row.base, better: row.better }]));
    const truth = Object.fromEntries(Object.entries(isRow(result.truth) ? result.truth : {}).filter(([, mean]) => gpa.known(mean)).map(([name, mean]) => [name, { mean }]));
    return [{ name: "base", kind: "base", at: base }, { name: "true clips", kind: "truth", at: truth }, ...found];
  };

  const words = (one, measure) => {
    const { mean, low, high } = one.at[measure];
    return `${measure} ${num(mean, 4)}${low === undefined ? "" : ` [${num(low, 4)}, ${num(high, 4)}]`}`;
  };
  const direction = (better) => (better > 0 ? ", higher is better" : better < 0 ? ", lower is better" : "");

  // Names beside the points, moved up or down until none lies on another.
  const placed = (spots, inner) => {
    const taken = [];
    for (const spot of [...spots].sort((a, b) => a.y - b.y)) {
      const wide = 6.4 * spot.text.length, left = spot.ends[1] + 6 + wide > inner.right ? spot.ends[0] - 6 - wide : spot.ends[1] + 6;
      let y = spot.y;
      for (let step = 0; taken.some((one) => Math.abs(one.y - y) < 14 && one.left < left + wide && left < one.right); step++) y = spot.y + (step % 2 ? -1 : 1) * 7 * (1 + (step >> 1));
      taken.push({ y, left, right: left + wide });
      Object.assign(spot, { labelX: left, labelY: Math.min(inner.bottom - 2, Math.max(inner.top + 8, y)) });
    }
    return spots;
  };

  const draw = (holder, width, shown, xName, yName) => {
    let has = shown.filter((one) => one.at[xName] && one.at[yName]);
    const truth = has.find((one) => one.kind === "truth"), rest = has.filter((one) => one !== truth);
    // True clips far off would press the models together: then they are told below.
    const far = truth && [xName, yName].some((name) => { const [low, high] = gpa.charts.extent(rest.map((one) => one.at[name].mean), 1.5) || [0, 0]; return truth.at[name].mean < low || truth.at[name].mean > high; });
    if (far) has = rest;
    const ends = (name) => has.flatMap((one) => [one.at[name].mean, ...(one.kind === "model" ? [one.at[name].low, one.at[name].high] : [])]);
    const x = gpa.charts.extent(ends(xName), 0.12), y = gpa.charts.extent(ends(yName), 0.12);
    const models = has.filter((one) => one.kind === "model");
    if (!x || !y || !models.length) { holder.replaceChildren(h("p", { class: "quiet" }, `No model has both ${xName} and ${yName}.`)); return; }
    const better = (name) => direction(models[0].at[name].better);
    const { svg, sx, sy, inner } = gpa.charts.frame(width, HEIGHT, x, y, { x: `${xName}${better(xName)}`, y: yName, aria: `${yName} against ${xName} of ${gpa.plural(models.length, "model")}` });
    svg.setAttribute("role", "group");
    svg.append(s("text", { class: "label", x: inner.left + 4, y: inner.top + 2 }, `${yName}${better(yName)}`));
    const base = has.find((one) => one.kind === "base");
    if (base) svg.append(
      s("line", { class: "base-line", x1: sx(base.at[xName].mean), x2: sx(base.at[xName].mean), y1: inner.top, y2: inner.bottom }),
      s("line", { class: "base-line", x1: inner.left, x2: inner.right, y1: sy(base.at[yName].mean), y2: sy(base.at[yName].mean) }));
    const tip = h("div", { class: "tip", hidden: true });
    const spots = [];
    for (const one of has) {
      const [px, py] = [sx(one.at[xName].mean), sy(one.at[yName].mean)], at = models.indexOf(one);
      if (one.kind === "training") { svg.append(s("circle", { class: "training", cx: px, cy: py, r: 2.5 })); continue; }
      const text = `${one.name}: ${words(one, yName)}, ${words(one, xName)}`;
      const node = s("g", { class: `point ${one.kind}`, tabindex: 0, role: "img", "aria-label": text, data: { name: one.name }, vars: at < 0 ? {} : { "--ink": `var(--line-${1 + (at % COLORS)})` } });
      if (one.kind === "model") {
        const [bx, by] = [one.at[xName], one.at[yName]];
        node.append(s("line", { class: "span", x1: sx(bx.low), x2: sx(bx.high), y1: py, y2: py }), s("line", { class: "span", x1: px, x2: px, y1: sy(by.low), y2: sy(by.high) }));
      }
      const form = one.kind === "base" ? FORMS[0] : one.kind === "truth" ? FORMS[5] : FORMS[at % FORMS.length];
      node.append(s("path", { d: form(R), transform: `translate(${px.toFixed(1)} ${py.toFixed(1)})` }));
      const show = () => { tip.hidden = false; tip.textContent = text; tip.style.left = `${Math.max(0, Math.min(px + 10, width - 6.6 * text.length))}px`; tip.style.top = `${Math.max(0, py - 34)}px`; };
      const hide = () => { tip.hidden = true; };
      for (const [type, handler] of [["pointerenter", show], ["focus", show], ["pointerleave", hide], ["blur", hide]]) node.addEventListener(type, handler);
      svg.append(node);
      const { low, high } = one.at[xName];
      spots.push({ node, text: one.name, x: px, y: py, ends: [Math.min(px - R, low === undefined ? px : sx(low)), Math.max(px + R, high === undefined ? px : sx(high))] });
    }
    for (const spot of placed(spots, inner)) {
      if (Math.abs(spot.labelY - spot.y) > 8) spot.node.append(s("line", { class: "leader", x1: spot.x, x2: spot.labelX > spot.x ? spot.labelX - 2 : spot.labelX + 6.4 * spot.text.length, y1: spot.y, y2: spot.labelY }));
      spot.node.append(s("text", { class: "name", x: spot.labelX, y: spot.labelY + 4 }, spot.text));
    }
    holder.replaceChildren(svg, tip);
    if (far) holder.append(h("p", { class: "quiet far" }, `Not in the picture, true clips: ${words(truth, yName)}, ${words(truth, xName)}.`));
  };

  // The plot of an evaluation with its two selects; null where there are not two models to compare, or two measures.
  return (result) => {
    const shown = points(result), measures = [...new Set(shown.filter((one) => one.kind === "model").flatMap((one) => Object.keys(one.at)))];
    if (shown.filter((one) => one.kind === "model").length < 2 || measures.length < 2) return null;
    const usual = { y: FIRST.y.find((name) => measures.includes(name)) || measures[0] };
    usual.x = FIRST.x.find((name) => measures.includes(name) && name !== usual.y) || measures.find((name) => name !== usual.y);
    const holder = h("div", { class: "plot" });
    let width = 0;
    const select = (axis, label) => h("select", { "aria-label": label, name: `trade-${axis}`, on: { change: () => draw(holder, width, shown, axes.x.value, axes.y.value) } }, measures.map((name) => h("option", { value: name, selected: name === usual[axis] }, name)));
    const axes = { y: select("y", "Measure upwards"), x: select("x", "Measure to the right") };
    gpa.fit(holder, (now) => { width = now; draw(holder, width, shown, axes.x.value, axes.y.value); });
    return h("figure", { class: "trade" },
      h("figcaption", {}, h("h4", {}, "Measure against measure"), axes.y, " against ", axes.x),
      holder,
      h("p", { class: "quiet" }, "Bars: 95 % intervals of the difference from the base, both ways. Dashed: the base. ", shown.some((one) => one.kind === "training") ? "Small dots: single trainings." : ""));
  };
})();
