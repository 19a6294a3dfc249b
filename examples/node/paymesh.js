// A client of paymesh.payment.v1.PaymentService.
//
// Messages have the names of the .proto files (snake_case). Amounts are integers of minor units
// and travel as strings, because a JavaScript number can't hold every int64.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

// The contracts themselves; and here what they import, and what errors carry.
const FILES = [
  "paymesh/payment/v1/payment_service.proto",
  "google/rpc/status.proto",
  "google/rpc/error_details.proto",
];
const contracts = loader.loadSync(FILES, {
  includeDirs: [here("../../protos"), here("protos")],
  longs: String,
  enums: String,
  defaults: true,
  keepCase: true,
});
const service = contracts["paymesh.payment.v1.PaymentService"];
const PaymentService = grpc.makeGenericClientConstructor(service, "PaymentService");

// The first three say nothing about what became of the call, the others that it accepted nothing.
const RETRYABLE = new Set(["", "OUTCOME_UNKNOWN", "INTERNAL", "DEPENDENCY_DOWN", "OVERLOADED"]);
const TRIES = 5;
const FIRST_WAIT_MS = 200;

/** A request that can't be sent as it is; nothing was asked. */
export class RequestError extends TypeError {}

/** A call that was refused, or whose outcome is not known.
 *
 * `reason` is what to branch on, as in the contract; empty where the status carries none: then
 * nothing is known, and the call is to be made again with the same request_id. `fields` are the
 * fields that are wrong, `retryable` whether the same call may go better.
 */
export class PaymeshError extends Error {
  constructor(error) {
    super(error.details || error.message);
    this.name = "PaymeshError";
    this.code = grpc.status[error.code] ?? "UNKNOWN";
    this.reason = "";
    this.domain = "";
    this.metadata = {};
    this.fields = [];
    for (const detail of detailsOf(error)) {
      if (detail.type === "google.rpc.ErrorInfo") {
        this.reason = detail.value.reason;
        this.domain = detail.value.domain;
        this.metadata = detail.value.metadata;
      } else if (detail.type === "google.rpc.BadRequest") {
        this.fields = detail.value.field_violations.map((violation) => violation.field);
      }
    }
  }

  get retryable() {
    return RETRYABLE.has(this.reason);
  }
}

/** The details of a status that are known here, from the trailer grpc-status-details-bin. */
function detailsOf(error) {
  const [trailer] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!trailer) return [];
  const found = [];
  for (const any of contracts["google.rpc.Status"].deserialize(trailer).details) {
    const type = any.type_url.split("/").at(-1);
    const known = contracts[type];
    if (known) found.push({ type, value: known.deserialize(any.value) });
  }
  return found;
}

/** Refuses what the encoder would change without a word: an amount that is no whole number, and a
 * field that there is not.
 */
function checkRequest(request) {
  const form = service.CreatePayment;
  let read;
  try {
    read = form.requestDeserialize(form.requestSerialize(request));
  } catch (error) {
    throw new RequestError(error.message);
  }
  compare(request, read, "");
}

function compare(given, read, path) {
  if (given === null || given === undefined) return;
  if (typeof given !== "object") {
    if (String(given) === String(read)) return;
    throw new RequestError(`${path}: ${given} would be sent as ${read}`);
  }
  if (Array.isArray(given) !== Array.isArray(read)) {
    throw new RequestError(`${path}: is of another kind`);
  }
  for (const [name, value] of Object.entries(given)) {
    const field = Array.isArray(given) ? `${path}[${name}]` : path ? `${path}.${name}` : name;
    if (!Object.hasOwn(read, name)) throw new RequestError(`${field}: there is no such field`);
    compare(value, read[name], field);
  }
}

/** A new request_id: a UUIDv7, whose time keeps rows that are made together together. */
export function newRequestId(now = Date.now()) {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(now, 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = bytes.toString("hex");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class PaymentClient {
  /** target: host:port, or dns:///name:port for several replicas. caller: who you are. */
  constructor(target, { caller = "default" } = {}) {
    this.caller = caller;
    this.stub = new PaymentService(target, grpc.credentials.createInsecure(), {
      "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
    });
  }

  /** Pays, and answers with the payment as it stands when every order rests, or shortly before
   * the deadline. What has no clear outcome is asked again under the same request_id, which
   * charges nothing twice. Throws PaymeshError, and RequestError for what can't be sent.
   */
  async createPayment(request, { timeoutMs = 30_000 } = {}) {
    if (!request.request_id) throw new RequestError("request_id: is needed, to ask again");
    checkRequest(request);
    for (let attempt = 1; ; attempt += 1) {
      try {
        return (await this.#unary("CreatePayment", request, timeoutMs)).payment;
      } catch (error) {
        if (!(error instanceof PaymeshError && error.retryable) || attempt === TRIES) throw error;
        await sleep(FIRST_WAIT_MS * 2 ** (attempt - 1));
      }
    }
  }

  /** One payment, by { payment_id } or by { request_id }. Throws PaymeshError. */
  async getPayment(by, { timeoutMs = 10_000 } = {}) {
    return (await this.#unary("GetPayment", by, timeoutMs)).payment;
  }

  /** Yields the payment at each change, and ends when it is terminal. Throws PaymeshError. */
  async *watchPayment(paymentId) {
    if (!this.stub.WatchPayment) throw new RequestError("the contract has no WatchPayment");
    const call = this.stub.WatchPayment({ payment_id: paymentId }, this.#metadata());
    try {
      for await (const response of call) yield response.payment;
    } catch (error) {
      throw new PaymeshError(error);
    } finally {
      call.cancel();
    }
  }

  close() {
    this.stub.close();
  }

  #metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("paymesh-caller", this.caller);
    return metadata;
  }

  #unary(method, request, timeoutMs) {
    const deadline = Date.now() + timeoutMs;
    return new Promise((resolve, reject) => {
      this.stub[method](request, this.#metadata(), { deadline }, (error, response) => {
        if (error) reject(new PaymeshError(error));
        else resolve(response);
      });
    });
  }
}
