"use strict";
// Clips in step: one clock chooses a frame, every clip decodes that very frame, and all are drawn at once.
gpa.player = (() => {
  // Decoded frames are kept when a clip is small enough, so that a loop costs one decoding.
  const KEPT_BYTES = 64 * 2 ** 20;

  class Clip {
    // spec: video (address), frames, fps, width, height; canvas: where it is drawn.
    constructor(spec, canvas) {
      this.spec = spec;
      this.canvas = canvas;
      this.kept = new Map();
      this.turn = Promise.resolve();
      const tiny = Math.min(spec.width, spec.height) < 256;
      canvas.width = spec.width;
      canvas.height = spec.height;
      canvas.classList.toggle("pixelated", tiny);
      this.context = canvas.getContext("2d");
      this.context.imageSmoothingEnabled = !tiny;
    }

    open() {
      if (!this.opened) {
        this.video = document.createElement("video");
        Object.assign(this.video, { muted: true, playsInline: true, preload: "auto" });
        this.opened = new Promise((resolve, reject) => {
          this.video.addEventListener("loadeddata", resolve, { once: true });
          this.video.addEventListener("error", () => reject(new Error(`${this.spec.video} does not play here`)), { once: true });
        });
        this.video.src = this.spec.video;
      }
      return this.opened;
    }

    // The picture of a frame; requests come one after the other, because a video seeks to one place at a time.
    picture(frame) {
      const at = Math.min(frame, this.spec.frames - 1);
      const ready = this.turn.then(() => this.kept.get(at) || this.seek(at));
      this.turn = ready.catch(() => {});
      return ready;
    }

    async seek(at) {
      await this.open();
      const video = this.video;
      // The middle of a frame's time, far from both neighbours.
      const time = ((at + 0.5) * video.duration) / this.spec.frames;
      if (Math.abs(video.currentTime - time) > 1e-4) {
        await new Promise((resolve, reject) => {
          video.addEventListener("seeked", resolve, { once: true });
          video.addEventListener("error", () => reject(new Error(`${this.spec.video} cannot be decoded`)), { once: true });
          video.currentTime = time;
        });
      }
      if (4 * video.videoWidth * video.videoHeight * this.spec.frames > KEPT_BYTES) return video;
      const copy = document.createElement("canvas");
      copy.width = video.videoWidth;
      copy.height = video.videoHeight;
      copy.getContext("2d").drawImage(video, 0, 0);
      this.kept.set(at, copy);
      return copy;
    }

    draw(picture) {
      this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    }

    close() {
      this.kept.clear();
      if (this.video) { this.video.removeAttribute("src"); this.video.load(); }
    }
  }

  class Sync {
    constructor(clips, onFrame) {
      this.clips = clips;
      this.onFrame = onFrame || (() => {});
      this.frames = Math.max(...clips.map((clip) => clip.spec.frames));
      this.fps = Math.max(...clips.map((clip) => clip.spec.fps || 8));
      this.speed = 1;
      this.at = -1;
      this.playing = false;
      this.closed = false;
      this.request = 0;
    }

    // Show a frame of all clips, or of none: a later request overtakes this one.
    async go(frame) {
      const request = ++this.request;
      const at = ((frame % this.frames) + this.frames) % this.frames;
      const pictures = await Promise.all(this.clips.map((clip) => clip.picture(at)));
      if (request !== this.request || this.closed) return false;
      this.clips.forEach((clip, number) => clip.draw(pictures[number]));
      this.at = at;
      this.onFrame(at);
      return true;
    }

    async play() {
      if (this.playing || this.closed) return;
      this.playing = true;
      this.onFrame(this.at);
      let due = performance.now();
      while (this.playing && !this.closed) {
        try { await this.go(this.at + 1); } catch (error) { this.playing = false; gpa.toast(error.message); break; }
        // The last frame stays a little longer, so that the eye sees the end.
        const hold = this.at === this.frames - 1 ? 3 : 1;
        due = Math.max(due, performance.now() - 1000) + (hold * 1000) / (this.fps * this.speed);
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
      }
      if (!this.closed) this.onFrame(this.at);
    }

    pause() { this.playing = false; }
    toggle() { if (this.playing) this.pause(); else this.play(); }
    step(by) { this.pause(); return this.go(Math.max(0, this.at) + by); }
    close() { this.closed = true; this.playing = false; this.clips.forEach((clip) => clip.close()); }
  }

  // A row of clips that plays while it is looked at: under the pointer, with the focus, or when told to.
  const preview = (host, specs, canvases) => {
    let sync = null, timer = 0;
    const start = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (sync) return;
        sync = new Sync(specs.map((spec, at) => new Clip(spec, canvases[at])));
        host.classList.add("playing");
        sync.play();
      }, 120);
    };
    const stop = () => {
      clearTimeout(timer);
      if (sync) sync.close();
      sync = null;
      host.classList.remove("playing");
    };
    host.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") start(); });
    host.addEventListener("pointerleave", stop);
    host.addEventListener("focusin", () => { if (host.matches(":focus-visible, :has(:focus-visible)")) start(); });
    host.addEventListener("focusout", stop);
    return { start, stop, toggle: () => (sync ? stop() : start()) };
  };

  return { Clip, Sync, preview };
})();
