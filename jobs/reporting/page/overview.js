"use strict";
// The first part: figures of the run, the funnel, how the rewards lie.
gpa.overview = (host, report) => {
  const { h, count, num } = gpa;
  const rows = (table) => report.counts[table] || [];
  const total = (table, column = "rows") => rows(table).reduce((sum, row) => sum + row[column], 0);
  const failed = rows("candidates").filter((row) => row.name !== "ok").reduce((sum, row) => sum + row.rows, 0);
  const refused = rows("rejects").filter((row) => row.stage === "import").reduce((sum, row) => sum + row.rows, 0);
  const paired = rows("paired_by")[0];
  const main = report.rewards.find((one) => paired && one.reward === paired.reward && one.version === paired.reward_version) || report.rewards[0];

  const figure = (value, label, note) => h("div", { class: "figure" }, h("b", {}, value), h("span", {}, label), note && h("small", {}, note));
  // "imported" is what rows without a model say.
  const models = [...new Set(rows("models").map((row) => row.model))].filter((name) => name !== "imported");
  const words = [
    models.length && `${models[0]}${models.length > 1 ? ` and ${models.length - 1} more` : ""}`,
    rows("videos").map(videos)[0],
    `begun ${report.created_at.slice(0, 10)}`,
  ].filter(Boolean);

  host.append(h("div", { class: "hero" },
    h("h1", {}, report.name),
    h("p", { class: "quiet" }, words.join("  ·  ")),
    h("div", { class: "figures" },
      figure(count(total("prompts")), "prompts", rows("prompts").map((row) => `${row.name} ${count(row.rows)}`).join(", ")),
      figure(count(total("candidates")), "candidates", [failed ? `${count(failed)} failed` : "none failed", refused && `${count(refused)} refused by the import`].filter(Boolean).join(", ")),
      figure(count(main ? main.scored : 0), "scored", main ? `${main.reward} ${main.version}` : "gpa score makes scores"),
      figure(count(total("pairs")), "pairs", total("pairs") ? `of ${count(total("pairs", "prompts"))} prompts` : "gpa pair makes pairs"),
      figure(count(total("pairs", "human")), "decided by a person", total("pairs", "human") ? "kept or swapped" : "none in the shards"),
      main && main.geometry && figure(main.geometry.split("/").pop(), "geometry model", `licence ${main.license || "unknown"}`))));

  for (const note of report.notes) host.append(h("p", { class: "notice" }, note));

  // "12 imported videos of 3 sizes: 176×144 to 1280×720, 24 to 61 frames at 8 to 24 a second".
  function videos(of) {
    const plain = (value) => String(Number(value.toFixed(2)));
    const range = (low, high) => (low === high ? plain(low) : `${plain(low)} to ${plain(high)}`);
    const [small, large] = [of.smallest.join("×"), of.largest.join("×")];
    const kind = of.imported === of.rows ? "imported video" : "video";
    const size = small === large ? small : `${small} to ${large}`;
    return `${gpa.plural(of.rows, kind)}${of.imported && of.imported < of.rows ? ` (${count(of.imported)} imported)` : ""}${of.sizes > 1 ? ` of ${of.sizes} sizes` : ""}: `
      + `${size}, ${range(of.fewest, of.most)} frame${of.most === 1 ? "" : "s"} at ${range(of.slowest, of.fastest)} a second`;
  }

  const grid = h("div", { class: "columns" });
  host.append(grid);
  const panel = (title, ...more) => { const node = h("article", { class: "panel" }, h("header", {}, h("h3", {}, title), ...more)); grid.append(node); return node; };

  funnel(panel("Funnel", h("small", { class: "quiet" }, `candidates left after each rule${report.funnel.reward ? `, by ${report.funnel.reward}` : ""}`)));
  if (main) rewards();
  host.append(settings());

  function funnel(node) {
    const steps = report.funnel.steps.filter((step, at, all) => step.candidates_lost || at === 0 || at === all.length - 1);
    const silent = report.funnel.steps.filter((step, at) => at && !step.candidates_lost).map((step) => step.rule);
    const most = steps.length ? steps[0].left : 0;
    if (steps.length) {
      const last = report.funnel.steps.at(-1);
      const shown = steps.filter((step) => step.candidates_lost || step === steps[0]);
      node.append(h("table", { class: "funnel" },
        h("thead", {}, h("tr", {}, ["rule", "lost", "prompts lost", "left"].map((name, at) => h("th", { class: at ? "number" : null, scope: "col" }, name)))),
        h("tbody", {},
          shown.map((step) => h("tr", {}, h("th", { scope: "row" }, step.rule),
            h("td", { class: "number" }, step.candidates_lost ? `−${count(step.candidates_lost)}` : ""),
            h("td", { class: "number" }, step.prompts_lost ? `−${count(step.prompts_lost)}` : ""),
            h("td", { class: "number bar", vars: { "--share": most ? step.left / most : 0 } }, count(step.left)))),
          h("tr", { class: "total" }, h("th", { scope: "row" }, "in a pair"), h("td"), h("td"),
            h("td", { class: "number bar", vars: { "--share": most ? last.left / most : 0 } }, count(last.left))))));
      const hand = report.funnel.by_hand;
      node.append(h("p", { class: "quiet" },
        `${gpa.plural(report.funnel.pairs, "pair")} of ${gpa.plural(report.funnel.prompts, "prompt")}. `,
        hand ? `By hand: ${hand.keep} kept, ${hand.swap} swapped, ${hand.drop} dropped. ` : "",
        silent.length ? `Nothing was lost to ${silent.join(", ")}.` : ""));
    }
    if (report.funnel.note) node.append(h("p", { class: "quiet" }, report.funnel.note));
  }

  function rewards() {
    const choose = (one) => h("option", { value: report.rewards.indexOf(one), selected: one === main }, `${one.reward} ${one.version}`);
    const select = report.rewards.length > 1 && h("select", { "aria-label": "Reward", on: { change: () => draw(report.rewards[select.value]) } }, report.rewards.map(choose));
    const spread = panel("Scores", select);
    const against = h("select", { "aria-label": "Measure against the reward", on: { change: () => draw(current) } },
      [["motion", "camera motion"], ["image_motion", "image motion"], ["sharpness", "sharpness"]].map(([value, text]) => h("option", { value }, text)));
    // The first one that the reward measures.
    against.value = ["motion", "image_motion", "sharpness"].find((name) => main.sample[name].some(gpa.known)) || "motion";
    const cloud = panel("Reward against", against);
    const [first, second] = [h("div"), h("div")];
    spread.append(first);
    cloud.append(second);
    let current = main;
    const draw = (one) => {
      current = one;
      first.replaceChildren();
      second.replaceChildren();
      if (!one.scored) { first.append(h("p", { class: "quiet" }, "No candidate has a value.")); return; }
      gpa.charts.histogram(first, one);
      const label = against.options[against.selectedIndex].text;
      gpa.charts.scatter(second, one.sample, against.value, "value", { x: label, y: one.reward }, (id) => gpa.gallery.openCandidate(id));
      const unscored = one.rows - one.scored;
      first.append(h("p", { class: "quiet" }, `${count(one.scored)} values${unscored ? `, ${count(unscored)} without one` : ""}; outermost half percent in the outer bars.`));
      second.append(h("p", { class: "quiet" }, one.sample.id.length < one.scored ? `A sample of ${count(one.sample.id.length)}. ` : "", "Click a dot of a shown pair to open it."));
    };
    draw(main);
  }

  function settings() {
    const value = (one) => (one === null ? "–" : typeof one === "object" ? JSON.stringify(one) : String(one));
    return h("details", { class: "settings" }, h("summary", {}, "Settings and versions"),
      h("div", { class: "columns" },
        report.commands.map((one) => h("article", { class: "panel" },
          h("header", {}, h("h3", {}, `gpa ${one.name}`), h("small", { class: "quiet" }, one.at.slice(0, 16).replace("T", " "))),
          h("dl", { class: "facts" }, Object.entries(one.config).filter(([, given]) => given !== null && given !== "").flatMap(([name, given]) => [h("dt", {}, name), h("dd", {}, value(given))])))),
        h("article", { class: "panel" }, h("header", {}, h("h3", {}, "Versions")),
          h("dl", { class: "facts" }, Object.entries({ ...report.versions, revision: report.revision }).filter(([, given]) => given).flatMap(([name, given]) => [h("dt", {}, name), h("dd", {}, value(given))])))));
  }
};
