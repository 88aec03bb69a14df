"use strict";
// Training curves: one small chart a metric, one colour a training.
gpa.training = (host, trainings) => {
  const { h } = gpa;
  const COLORS = ["var(--line-1)", "var(--line-2)", "var(--line-3)", "var(--line-4)", "var(--line-5)", "var(--line-6)"];
  const FIRST = ["loss", "accuracy", "margin", "winner_advantage", "loser_advantage", "winner_error", "loser_error", "saturated", "grad_norm", "lr"];
  const LATER = ["seconds", "pairs_per_second"];
  const color = new Map(trainings.map((one, at) => [one.name, COLORS[at % COLORS.length]]));
  const hidden = new Set();

  const names = [...new Set(trainings.flatMap((one) => Object.keys(one.metrics)))];
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : LATER.includes(name) ? 1000 : 100);
  names.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));

  const last = (one, name) => { const points = one.metrics[name]; if (!points) return null; const tail = points[1].slice(-20); return tail.reduce((a, b) => a + b, 0) / tail.length; };
  const columns = ["objective", "beta", "lr", "rank", "steps", "batch_size", "grad_accum", "seed"].filter((name) => trainings.some((one) => name in one.config));
  const table = h("table", { class: "runs" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "training"), columns.map((name) => h("th", { scope: "col", class: "number" }, name.replaceAll("_", " "))), ["steps done", "loss", "accuracy"].map((name) => h("th", { scope: "col", class: "number" }, name)))),
    h("tbody", {}, trainings.map((one) => {
      const box = h("input", { type: "checkbox", checked: true, on: { change: () => { if (box.checked) hidden.delete(one.name); else hidden.add(one.name); draw(); } } });
      const steps = Object.values(one.metrics)[0][0];
      return h("tr", {}, h("th", { scope: "row" }, h("label", {}, box, h("i", { class: "swatch", vars: { "--ink": color.get(one.name) } }), one.name)),
        columns.map((name) => h("td", { class: "number" }, one.config[name] === undefined ? "–" : String(one.config[name]))),
        h("td", { class: "number" }, gpa.count(Math.round(steps[steps.length - 1]))), h("td", { class: "number" }, gpa.num(last(one, "loss"))), h("td", { class: "number" }, gpa.num(last(one, "accuracy"))));
    })));
  const charts = h("div", { class: "charts" });
  const below = trainings.some((one) => one.config.winner_weight > 0 && ["loss", "val/loss"].some((name) => one.metrics[name] && one.metrics[name][1].some((value) => value < 0)));

  function draw() {
    charts.replaceChildren();
    for (const name of names) {
      const series = trainings.filter((one) => one.metrics[name] && !hidden.has(one.name)).map((one) => ({ points: one.metrics[name], color: color.get(one.name) }));
      if (series.length) gpa.charts.curves(charts, name.replaceAll("_", " "), series);
    }
  }

  host.append(gpa.title("Training", h("span", { class: "tally" }, gpa.plural(trainings.length, "training"))),
    gpa.scroll(table, "Trainings"), h("p", { class: "quiet" }, "Faint: as logged. Firm: running mean. Loss and accuracy in the table are means over the last 20 points."),
    below && h("p", { class: "quiet" }, "A loss below 0 is no fault: the winner weight adds −weight × β × winner advantage, which is below 0 once the winners are predicted better than by the reference. The preference's own part never is, and lower is better."), charts);
  draw();
};
