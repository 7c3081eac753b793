// A headless browser, driven over its debugging pipe: no packages are needed.
//
// https://chromedevtools.github.io/devtools-protocol/ ; messages end with a zero byte, on the
// descriptors 3 (to the browser) and 4 (from it).

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE = 20_000;

export class Browser {
  static async start(program) {
    const browser = new Browser(program);
    await browser.send("Browser.getVersion");
    return browser;
  }

  constructor(program) {
    this.folder = mkdtempSync(join(tmpdir(), "gannet-page-"));
    const flags = [
      "--headless=new", "--remote-debugging-pipe", `--user-data-dir=${this.folder}`, "--no-first-run",
      "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
      "--force-device-scale-factor=1", "about:blank",
    ];
    this.process = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.waiting = new Map();
    this.listeners = [];
    this.next = 1;
    let rest = "";
    this.process.stdio[4].setEncoding("utf8");
    this.process.stdio[4].on("data", (data) => {
      const messages = (rest + data).split("\0");
      rest = messages.pop();
      messages.forEach((message) => this.hear(JSON.parse(message)));
    });
  }

  hear(message) {
    const waiting = this.waiting.get(message.id);
    if (!waiting) {
      this.listeners.forEach((listener) => listener(message));
      return;
    }
    this.waiting.delete(message.id);
    const { method, resolve, reject } = waiting;
    if (message.error) {
      reject(new Error(`${method}: ${message.error.message}`));
    } else {
      resolve(message.result);
    }
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.next;
    this.next += 1;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { method, resolve, reject }));
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return within(answer, method);
  }

  // A page of its own, with nothing kept by another.
  async page(address) {
    const { browserContextId } = await this.send("Target.createBrowserContext");
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    await page.open(address);
    return page;
  }

  async close() {
    const gone = new Promise((resolve) => this.process.once("exit", resolve));
    await this.send("Browser.close").catch(() => this.process.kill());
    await within(gone, "the end of the browser").catch(() => this.process.kill("SIGKILL"));
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${PATIENCE} ms: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export class Page {
  constructor(browser, sessionId) {
    this.browser = browser;
    this.sessionId = sessionId;
    // What scripts complain of, and what the policy of the page has stopped.
    this.complaints = [];
    // Where requests went.
    this.requests = [];
    browser.listeners.push((message) => message.sessionId === sessionId && this.note(message));
  }

  note({ method, params }) {
    if (method === "Runtime.exceptionThrown") {
      this.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    } else if (method === "Log.entryAdded" && params.entry.level === "error" && params.entry.source !== "network") {
      this.complaints.push(params.entry.text);
    } else if (method === "Network.requestWillBeSent") {
      this.requests.push(params.request.url);
    } else if (method === "Page.javascriptDialogOpening") {
      this.complaints.push(`dialog: ${params.message}`);
      this.send("Page.handleJavaScriptDialog", { accept: true });
    }
  }

  send(method, params) {
    return this.browser.send(method, params, this.sessionId);
  }

  async open(address) {
    for (const domain of ["Page", "Runtime", "Log", "Network"]) {
      await this.send(`${domain}.enable`);
    }
    await this.send("Page.navigate", { url: address });
    await this.until("location.href !== 'about:blank' && document.readyState === 'complete'");
  }

  async reload() {
    await this.eval("window.isOld = true");
    await this.send("Page.reload");
    await this.until("!window.isOld && document.readyState === 'complete'");
  }

  // What an expression is in the page.
  async eval(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression, awaitPromise: true, returnByValue: true, userGesture: true,
    });
    if (exceptionDetails) {
      throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    }
    return result.value;
  }

  // Waits until an expression is true.
  async until(expression) {
    const end = Date.now() + PATIENCE;
    while (!(await this.eval(`Boolean(${expression})`).catch(() => false))) {
      if (Date.now() > end) {
        const shown = await this.eval("document.body?.innerText").catch(() => "");
        throw new Error(`never true: ${expression}\n${shown}\n${this.complaints.join("\n")}`);
      }
      await new Promise((wake) => setTimeout(wake, 30));
    }
  }

  text(selector) {
    return this.eval(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? null`);
  }

  count(selector) {
    return this.eval(`document.querySelectorAll(${JSON.stringify(selector)}).length`);
  }

  async click(selector) {
    await this.until(`document.querySelector(${JSON.stringify(selector)})`);
    await this.eval(`document.querySelector(${JSON.stringify(selector)}).click()`);
  }

  async type(text) {
    await this.send("Input.insertText", { text });
  }

  async press(key, modifiers = 0) {
    const codes = { Enter: 13, Escape: 27, Tab: 9 };
    const text = key === "Enter" ? "\r" : undefined;
    const event = { key, code: key, windowsVirtualKeyCode: codes[key], modifiers };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", text, ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  size(width, height) {
    const mobile = width < 600;
    return this.send("Emulation.setDeviceMetricsOverride", { width, height, mobile, deviceScaleFactor: 1 });
  }

  colours(scheme) {
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    return this.send("Emulation.setEmulatedMedia", { features });
  }

  async screenshot() {
    const { data } = await this.send("Page.captureScreenshot", { format: "png", optimizeForSpeed: false });
    return Buffer.from(data, "base64");
  }
}
