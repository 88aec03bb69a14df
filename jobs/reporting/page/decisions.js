"use strict";
// What a person decides about pairs. It is kept by prompt and the two candidates, as which of them is better, so
// that it means the same when a later report shows the two the other way round.
gpa.decisions = (() => {
  const WORDS = ["keep", "swap", "drop"];
  let held = new Map();
  let name = "", run = "";
  const listeners = [];

  const keyOf = (prompt, one, other) => [prompt, ...[one, other].sort()].join("|");

  const open = (report) => {
    name = `gpa-decisions-${report.key}`;
    run = report.name;
    try {
      held = new Map(JSON.parse(localStorage.getItem(name) || "[]"));
    } catch {
      held = new Map();
    }
  };

  const save = () => {
    try {
      localStorage.setItem(name, JSON.stringify([...held]));
    } catch {
      gpa.toast("This browser keeps nothing for the page: export before you close it");
    }
    listeners.forEach((listener) => listener());
  };

  // pair: {prompt, winner, loser} as ids. The word that its present order makes of what was decided.
  const word = (pair) => {
    const one = held.get(keyOf(pair.prompt, pair.winner, pair.loser));
    if (!one) return null;
    return one.better === null ? "drop" : one.better === pair.winner ? "keep" : "swap";
  };

  const set = (pair, decision) => {
    const key = keyOf(pair.prompt, pair.winner, pair.loser);
    if (decision === null) held.delete(key);
    else {
      const better = { keep: pair.winner, swap: pair.loser, drop: null }[decision];
      held.set(key, { prompt: pair.prompt, seen: [pair.winner, pair.loser], better, at: new Date().toISOString() });
    }
    save();
  };

  const entries = () => [...held.values()].map((one) => ({
    prompt_id: one.prompt,
    winner_id: one.seen[0],
    loser_id: one.seen[1],
    decision: one.better === null ? "drop" : one.better === one.seen[0] ? "keep" : "swap",
    decided_at: one.at,
  }));

  const download = () => {
    if (!held.size) { gpa.toast("Nothing is decided yet, so nothing was exported: K, S or D on a pair"); return; }
    const lines = entries().map((one) => JSON.stringify(one)).join("\n") + "\n";
    const link = gpa.h("a", { download: `${run.replace(/[^\w.-]+/g, "-")}-decisions.jsonl` });
    link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    gpa.toast(`${gpa.plural(held.size, "decision")} exported: gpa pair RUN --decisions FILE`);
  };

  // A file that was exported before, here or by someone else; what it says goes before what is here.
  const load = (text) => {
    let rows;
    try {
      const whole = JSON.parse(text);
      rows = Array.isArray(whole) ? whole : Array.isArray(whole.decisions) ? whole.decisions : [whole];
    } catch {
      rows = text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
    }
    const good = (one) => one && WORDS.includes(one.decision) && ["prompt_id", "winner_id", "loser_id"].every((id) => typeof one[id] === "string");
    if (!rows.every(good)) throw new Error("an entry is no decision");
    for (const one of rows) {
      const better = { keep: one.winner_id, swap: one.loser_id, drop: null }[one.decision];
      held.set(keyOf(one.prompt_id, one.winner_id, one.loser_id), { prompt: one.prompt_id, seen: [one.winner_id, one.loser_id], better, at: String(one.decided_at || "") });
    }
    save();
    return rows.length;
  };

  const counts = () => entries().reduce((sum, one) => ({ ...sum, [one.decision]: sum[one.decision] + 1 }), { keep: 0, swap: 0, drop: 0 });

  const clear = () => { held.clear(); save(); };

  return { open, word, set, entries, download, load, counts, clear, size: () => held.size, listen: (listener) => listeners.push(listener) };
})();
