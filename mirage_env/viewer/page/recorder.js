// Recording: frames of the chunks that are walked, made into a video by the server and downloaded.

const MOST = 1200;  // frames

export class Recorder {
  constructor(call) {
    this.call = call;
    this.drop();
  }

  drop() { Object.assign(this, { frames: [], on: false }); }

  /** Begin or end; true if it records now. */
  toggle() {
    if (!this.on) this.frames = [];
    return (this.on = !this.on);
  }

  add(frames) { if (this.on) this.frames.push(...frames.slice(0, MOST - this.frames.length)); }

  async download(to, fps) {
    const { width, height } = this.frames[0].picture;
    const frames = { dtype: "uint8", shape: [this.frames.length, height, width, 3], encoding: "jpeg", parts: this.frames.map(({ jpeg }) => jpeg) };
    const { arrays } = await this.call("film", { to, fps }, { frames });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([arrays.file.data], { type: to === "mp4" ? "video/mp4" : "image/gif" }));
    link.download = `mirage.${to}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}
