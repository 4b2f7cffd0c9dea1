// The search runs in a worker, which browsers refuse to pages that are opened from a disk. There a
// hidden frame with the same script stands in for it: what is posted to one is dispatched in the other.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      this.ready = new Promise((resolve) => this.frame.addEventListener("load", resolve));
      const script = document.createElement("script");
      script.src = new URL(url, document.baseURI).href;
      this.frame.srcdoc = script.outerHTML;
      this.ready.then(() => {
        this.frame.contentWindow.postMessage = (data) =>
          this.dispatchEvent(new MessageEvent("message", { data }));
      });
      document.body.append(this.frame);
    }

    postMessage(data) {
      this.ready.then(() => {
        const inside = this.frame.contentWindow;
        inside.dispatchEvent(new inside.MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
