"use strict";
// The figures of a pair: every measure of both clips, and where they come from.
gpa.numbers = (() => {
  const { h, num, signed } = gpa;
  // Name, direction of better (0: neither), what it is.
  const MEASURES = {
    value: ["reward", 1, "what ranks the pair; higher is better"],
    mse: ["reprojection", -1, "squared error where a point of another frame lands"],
    lpips: ["perceptual", -1, "perceptual distance of the reprojections"],
    sampson: ["epipolar", -1, "distance of matches to their epipolar lines, in pixels"],
    psnr: ["PSNR", 1, "of the reprojections, in dB"],
    ssim: ["SSIM", 1, "of the reprojections"],
    mvcs: ["MVCS", 1, "multi-view consistency"],
    coverage: ["coverage", 0, "share of pixels that points of other frames reach"],
    motion: ["camera motion", 0, "mean step of the camera, in units of scene depth"],
    image_motion: ["image motion", 0, "change between frames over the gradient of the first"],
    sharpness: ["sharpness", 0, "gradient of later frames over the first frame's"],
    cut: ["cut", -1, "largest share of a frame that the one before does not explain, beyond the clip's usual"],
    fade: ["fade", -1, "share of the picture in a fade or a dissolve"],
    bars: ["bars", -1, "share of the picture under bars at its sides"],
    overlay: ["overlay", -1, "share of the picture with detail that stands while the rest moves"],
    split_screen: ["split screen", -1, "share of a straight line at which two pictures meet"],
  };

  const table = (winner, loser) => h("table", { class: "numbers" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), h("th", { scope: "col", class: "number winner" }, "winner"), h("th", { scope: "col", class: "number loser" }, "loser"), h("th", { scope: "col", class: "number" }, "difference"))),
    h("tbody", {}, Object.entries(MEASURES).map(([name, [label, better, about]]) => {
      const [ours, theirs] = [winner.measures[name], loser.measures[name]];
      if (!gpa.known(ours) && !gpa.known(theirs)) return null;
      const ahead = better && gpa.known(ours) && gpa.known(theirs) ? Math.sign(better * (ours - theirs)) : 0;
      return h("tr", { title: about }, h("th", { scope: "row" }, label, better ? h("small", {}, better > 0 ? " ↑" : " ↓") : null),
        h("td", { class: `number${ahead > 0 ? " ahead" : ""}` }, num(ours)), h("td", { class: `number${ahead < 0 ? " ahead" : ""}` }, num(theirs)),
        h("td", { class: "number quiet" }, gpa.known(ours) && gpa.known(theirs) ? signed(ours - theirs, 2) : "–"));
    })));

  // Where an imported candidate comes from, and what was done to it.
  const origin = ({ sampler }) => {
    const from = sampler && sampler.imported;
    if (!from) return null;
    const video = from.video || {};
    return [
      from.file || from.source,
      video.size && `${video.size.join(" × ")} pixels, ${video.fps} frames a second, ${video.codec} in ${video.container}`,
      video.turned && `turned by ${video.turned}°`,
      video.mirrored && "mirrored",
      video.pixel_shape && `pixels of ${video.pixel_shape} made square`,
      video.colours && `colours converted (${video.colours})`,
      video.uneven && "uneven frame times",
      from.by_time && `taken at ${from.by_time.fps} frames a second`,
      from.fit && from.fit !== "exact" && `fitted to the model (${from.fit})`,
      gpa.known(from.first_frame_psnr) && `first frame like the one given: ${from.first_frame_psnr} dB`,
    ].filter(Boolean).join("; ");
  };

  const facts = (pair, winner, loser) => {
    const settings = ({ sampler }) => Object.fromEntries(Object.entries(sampler || {}).filter(([name]) => name !== "imported"));
    const sampler = JSON.stringify(settings(winner)) === JSON.stringify(settings(loser)) ? settings(winner) : {};
    const rows = [
      ["prompt", pair.prompt.id], ["scene", pair.prompt.scene], ["split", pair.split], ["pair", pair.id],
      ["winner", pair.winner.id], ["seed", pair.winner.seed], ["loser", pair.loser.id], ["seed", pair.loser.seed],
      ["winner from", origin(winner)], ["loser from", origin(loser)],
      ["reward", `${winner.reward || "–"} ${winner.reward_version || ""}`], ["geometry", winner.geometry],
      ["model", winner.model === "imported" ? null : winner.model], ["adapter", winner.adapter || loser.adapter],
      ["sampler", Object.entries(sampler).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")],
      ["by a person", pair.human],
    ];
    return h("dl", { class: "facts" }, rows.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
  };

  return { table, facts };
})();
