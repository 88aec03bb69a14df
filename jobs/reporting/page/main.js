"use strict";
// Puts the parts together: sections that have content, theme, decisions in the bar, keys that work anywhere.
(() => {
  const { $, data, h } = gpa;
  const report = data.report, pairs = data.pairs;
  if (!report || !pairs) {
    $("overview").append(h("p", { class: "notice" }, "The data of this report is missing: keep index.html beside its folders, or run gpa report again."));
    return;
  }
  document.title = `${report.name} · gpa report`;
  $("run-name").textContent = report.name;

  const THEME = "gpa-theme";
  const read = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (read(THEME)) document.documentElement.dataset.theme = read(THEME);
  const turnTheme = () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem(THEME, document.documentElement.dataset.theme); } catch { /* it holds until the page is closed */ }
  };

  const tell = () => {
    const { keep, swap, drop } = gpa.decisions.counts(), size = gpa.decisions.size();
    $("decision-count").textContent = size ? `${keep} kept  ${swap} swapped  ${drop} dropped` : "";
    $("export").hidden = !pairs.pairs.id.length;
    $("export").disabled = !size;
  };

  const loadFile = () => {
    const input = h("input", { type: "file", accept: ".jsonl,.json,application/json" });
    input.addEventListener("change", async () => {
      if (!input.files.length) return;
      try {
        const count = gpa.decisions.load(await input.files[0].text());
        gpa.gallery.apply();
        gpa.toast(`${gpa.plural(count, "decision")} read`);
      } catch (error) {
        gpa.toast(`This is no file of decisions (${error.message})`);
      }
    });
    input.click();
  };

  const show = (name, has, fill) => {
    const section = $(name), link = document.querySelector(`nav [href="#${name}"]`);
    section.hidden = link.hidden = !has;
    if (has) fill(section);
  };

  gpa.decisions.open(report);
  gpa.decisions.listen(tell);
  gpa.overview($("overview"), report);
  show("pairs", pairs.pairs.id.length > 0, (section) => {
    gpa.gallery.open(section, pairs, report);
    section.querySelector(".title").append(
      h("span", { class: "actions" }, h("button", { type: "button", class: "quiet-button", on: { click: loadFile } }, "Load decisions"),
        h("button", { type: "button", class: "quiet-button", on: { click: () => { if (gpa.decisions.size() && confirm("Forget all decisions made in this browser?")) { gpa.decisions.clear(); gpa.gallery.apply(); } } } }, "Forget all")));
  });
  show("training", report.trainings.length > 0, (section) => gpa.training(section, report.trainings));
  show("evaluation", report.evaluations.length > 0, (section) => gpa.evaluation(section, report.evaluations));
  tell();

  const route = () => {
    const found = /^#pair=(.+)$/.exec(location.hash);
    const pair = found && gpa.gallery.byId(decodeURIComponent(found[1]));
    if (pair) gpa.viewer.open(pair);
  };
  addEventListener("hashchange", route);
  route();

  const help = $("help");
  const turnHelp = () => (help.open ? help.close() : help.showModal());
  $("theme").addEventListener("click", turnTheme);
  $("export").addEventListener("click", gpa.decisions.download);
  $("help-open").addEventListener("click", turnHelp);
  $("help-close").addEventListener("click", () => help.close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.key.startsWith("Arrow")) {
      // Nothing has the focus yet: the keys choose a card, and go on from there.
      if (event.target === document.body && !document.querySelector("dialog[open]") && gpa.gallery.enter(event.key)) event.preventDefault();
      return;
    }
    const actions = { "?": turnHelp, t: turnTheme, e: gpa.decisions.download, "/": () => gpa.gallery.search && gpa.gallery.search.focus() };
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });

  // The section in view is marked in the bar.
  const seen = new IntersectionObserver((entries) => {
    for (const one of entries) if (one.isIntersecting) document.querySelectorAll("nav a").forEach((link) => link.classList.toggle("here", link.hash === `#${one.target.id}`));
  }, { rootMargin: "-30% 0px -65% 0px" });
  document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
  document.documentElement.dataset.ready = "true";
})();
