// Search from the disk. A browser starts no worker from a file, so the script of the worker runs in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc =
        "<script>postMessage = data => frameElement.dispatchEvent(new MessageEvent('message', {data}))</script>" +
        `<script src="${url}"></script>`;
      this.frame.addEventListener("message", ({ data }) => this.dispatchEvent(new MessageEvent("message", { data })));
      this.loaded = new Promise(resolve => this.frame.addEventListener("load", resolve));
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
