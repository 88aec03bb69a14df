"use strict";
// Charts in SVG, drawn for their width in pixels and labelled sparsely.
gpa.charts = (() => {
  const { s, h, num } = gpa;
  const MARGIN = { top: 10, right: 12, bottom: 32, left: 48 };

  const ticks = (low, high, count) => {
    const span = high - low || Math.abs(high) || 1;
    const rough = span / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
    return { step, found };
  };

  // A number for an axis: no digits that the step does not need.
  const tick = (value, step) => {
    if (value === 0) return "0";
    if (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4) return num(value, 2);
    return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))).replace("-", "−");
  };

  const extent = (values, padding = 0.04) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (gpa.known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    if (low > high) return null;
    const room = (high - low || Math.abs(high) || 1) * padding;
    return [low - room, high + room];
  };

  // The frame of a chart: scales, grid, axes. Returns the svg and the two scales.
  const frame = (width, height, x, y, labels) => {
    const inner = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    const sx = (value) => inner.left + ((value - x[0]) / (x[1] - x[0] || 1)) * (inner.right - inner.left);
    const sy = (value) => inner.bottom - ((value - y[0]) / (y[1] - y[0] || 1)) * (inner.bottom - inner.top);
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": labels.aria || `${labels.y} by ${labels.x}` });
    const xs = ticks(x[0], x[1], Math.max(2, Math.floor((inner.right - inner.left) / 80)));
    const ys = ticks(y[0], y[1], Math.max(3, Math.floor((inner.bottom - inner.top) / 32)));
    for (const value of ys.found) {
      svg.append(
        s("line", { class: "gridline", x1: inner.left, x2: inner.right, y1: sy(value), y2: sy(value) }),
        s("text", { class: "tick", x: inner.left - 6, y: sy(value) + 3.5, "text-anchor": "end" }, tick(value, ys.step)));
    }
    for (const value of xs.found) svg.append(s("text", { class: "tick", x: sx(value), y: inner.bottom + 15, "text-anchor": "middle" }, tick(value, xs.step)));
    svg.append(s("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }));
    if (labels.x) svg.append(s("text", { class: "label", x: inner.right, y: height - 3, "text-anchor": "end" }, labels.x));
    return { svg, sx, sy, inner };
  };

  const legend = (entries) => h("div", { class: "legend" }, entries.map(([name, kind]) =>
    h("span", {}, h("i", { class: `swatch ${kind}` }), name)));

  // Bars of all, and outlines of two groups in it, each scaled to its own height of one.
  const histogram = (host, one) => {
    const holder = h("div", { class: "plot" });
    host.append(legend([["all scored", "every"], ["winners", "winner"], ["losers", "loser"]]), gpa.fit(holder, (width) => {
      const height = 220;
      // Fewer values make wider bars.
      const merged = one.scored < 4000 ? 2 : 1;
      const join = (values) => values.filter((_, at) => at % merged === 0).map((_, at) => values.slice(at * merged, (at + 1) * merged).reduce((a, b) => a + b, 0));
      const bins = one.bins.everyone.length / merged;
      const share = (values) => { const total = values.reduce((a, b) => a + b, 0) || 1; return values.map((value) => (100 * value) / total); };
      const groups = Object.fromEntries(Object.entries(one.bins).map(([name, values]) => [name, share(join(values))]));
      const top = Math.max(1, ...Object.values(groups).flat());
      const { svg, sx, sy } = frame(width, height, [one.low, one.high === one.low ? one.low + 1 : one.high], [0, top * 1.05],
        { x: `${one.reward}, higher is better`, y: "% of group", aria: `Distribution of ${one.reward}: all, winners and losers` });
      const edge = (bin) => sx(one.low + ((one.high - one.low) * bin) / bins);
      const outline = (values, close) => values.reduce((path, value, bin) => `${path}V${sy(value)}H${edge(bin + 1)}`, `M${edge(0)} ${sy(0)}`) + `V${sy(0)}` + (close ? "Z" : "");
      svg.append(
        s("path", { class: "area every", d: outline(groups.everyone, true) }),
        s("path", { class: "line loser", d: outline(groups.losers) }),
        s("path", { class: "line winner", d: outline(groups.winners) }),
        s("text", { class: "label", x: 4, y: 10 }, "%"));
      holder.replaceChildren(svg);
    }));
  };

  // Dots are points of a path with round ends: one node a group, whatever their number.
  const scatter = (host, sample, xName, yName, labels, onPick) => {
    const tip = h("div", { class: "tip", hidden: true });
    const holder = h("div", { class: "plot pickable" });
    const groups = [["neither", "every", 0], ["loser", "loser", 2], ["winner", "winner", 1], ["both", "both", 3]];
    host.append(legend([["in no pair", "every"], ["winner", "winner"], ["loser", "loser"], ["both", "both"]]), gpa.fit(holder, (width) => {
      const xs = sample[xName], ys = sample[yName];
      const shown = xs.map((x, at) => at).filter((at) => gpa.known(xs[at]) && gpa.known(ys[at]));
      const x = extent(shown.map((at) => xs[at])), y = extent(shown.map((at) => ys[at]));
      if (!x || !y) { holder.replaceChildren(h("p", { class: "quiet" }, `No score has a ${labels.x}.`)); return; }
      const { svg, sx, sy } = frame(width, 220, x, y, labels);
      for (const [, kind, role] of groups) {
        const path = shown.filter((at) => sample.role[at] === role).map((at) => `M${sx(xs[at]).toFixed(1)} ${sy(ys[at]).toFixed(1)}h0`).join("");
        if (path) svg.append(s("path", { class: `dots ${kind}`, d: path }));
      }
      const ring = s("circle", { class: "ring", r: 5, visibility: "hidden" });
      svg.append(ring);
      const nearest = (event) => {
        const box = svg.getBoundingClientRect();
        let best = -1, least = 400;
        for (const at of shown) {
          const far = (sx(xs[at]) - event.clientX + box.left) ** 2 + (sy(ys[at]) - event.clientY + box.top) ** 2;
          if (far < least) { least = far; best = at; }
        }
        return best;
      };
      svg.addEventListener("pointermove", (event) => {
        const at = nearest(event);
        tip.hidden = at < 0;
        ring.setAttribute("visibility", at < 0 ? "hidden" : "visible");
        if (at < 0) return;
        ring.setAttribute("cx", sx(xs[at]));
        ring.setAttribute("cy", sy(ys[at]));
        tip.textContent = `${labels.y} ${num(ys[at])}, ${labels.x} ${num(xs[at])}`;
        tip.style.left = `${Math.min(sx(xs[at]) + 10, width - 190)}px`;
        tip.style.top = `${Math.max(0, sy(ys[at]) - 30)}px`;
      });
      svg.addEventListener("pointerleave", () => { tip.hidden = true; ring.setAttribute("visibility", "hidden"); });
      svg.addEventListener("click", (event) => { const at = nearest(event); if (at >= 0) onPick(sample.id[at]); });
      holder.replaceChildren(svg, tip);
    }));
  };

  // Curves of one metric: what was logged faintly, its running mean firmly.
  const curves = (host, title, series) => {
    const holder = h("div", { class: "plot" });
    const all = extent(series.flatMap((one) => one.points[1]), 0.06);
    const x = extent(series.flatMap((one) => one.points[0]), 0);
    if (!all || !x) return;
    host.append(h("figure", { class: "small" }, h("figcaption", {}, title), gpa.fit(holder, (width) => {
      const { svg, sx, sy } = frame(width, 160, x, all, { x: "step", y: title });
      for (const one of series) {
        const [steps, values] = one.points;
        const line = (numbers) => numbers.map((value, at) => `${at ? "L" : "M"}${sx(steps[at]).toFixed(1)} ${sy(value).toFixed(1)}`).join("");
        const many = values.length > 24;
        if (many) svg.append(s("path", { class: "line faint", d: line(values), vars: { "--ink": one.color } }));
        svg.append(s("path", { class: "line firm", d: line(many ? smooth(values) : values), vars: { "--ink": one.color } }));
      }
      holder.replaceChildren(svg);
    })));
  };

  const smooth = (values) => {
    const reach = Math.max(1, Math.round(values.length / 40));
    return values.map((_, at) => {
      const near = values.slice(Math.max(0, at - reach), at + reach + 1);
      return near.reduce((a, b) => a + b, 0) / near.length;
    });
  };

  // Error of every frame of two clips, with a mark that follows the clock.
  const frames = (width, height, lines, count) => {
    const top = Math.max(...lines.flatMap((one) => one.values).filter(gpa.known), 1e-12);
    const sx = (at) => 4 + ((width - 8) * at) / Math.max(1, count - 1);
    const sy = (value) => height - 3 - ((height - 8) * value) / top;
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "frames", "aria-hidden": "true" });
    const mark = s("line", { class: "now", x1: 0, x2: 0, y1: 0, y2: height });
    svg.append(s("line", { class: "axis", x1: 4, x2: width - 4, y1: height - 3, y2: height - 3 }), mark);
    for (const one of lines) {
      const spots = one.at.map((at, i) => [sx(at), sy(one.values[i])]).filter(([, y]) => gpa.known(y));
      if (!spots.length) continue;
      svg.append(
        s("path", { class: `line ${one.kind}`, d: "M" + spots.map((spot) => spot.map((v) => v.toFixed(1)).join(" ")).join("L") }),
        s("path", { class: `dots ${one.kind}`, d: spots.map(([a, b]) => `M${a.toFixed(1)} ${b.toFixed(1)}h0`).join("") }));
    }
    const go = (at) => { mark.setAttribute("x1", sx(at)); mark.setAttribute("x2", sx(at)); };
    return { svg, go, frameAt: (x) => Math.round(Math.min(1, Math.max(0, (x - 4) / (width - 8))) * (count - 1)) };
  };

  return { histogram, scatter, curves, frames, legend, frame, extent };
})();
