// node main.js create '{"buyer_id": …}' | get PAYMENT_ID | watch PAYMENT_ID
//
// Prints each answer as one line of JSON. Exit codes: 0 answered; 1 refused, with the error as
// JSON on standard error; 2 a command or a request that is none, and nothing was asked.

import { parseArgs } from "node:util";
import { newRequestId, PaymentClient, PaymeshError, RequestError } from "./paymesh.js";

const USAGE = `usage: node main.js [--target HOST:PORT] [--caller NAME] COMMAND
  create JSON        a CreatePaymentRequest, with a new request_id where it has none
  get PAYMENT_ID
  watch PAYMENT_ID   each change, until the payment is terminal
`;

class UsageError extends Error {}

function arguments_() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        target: { type: "string", default: process.env.PAYMENT_TARGET ?? "127.0.0.1:50051" },
        caller: { type: "string", default: "default" },
      },
    });
    const [command, given] = positionals;
    if (!["create", "get", "watch"].includes(command) || positionals.length !== 2) {
      throw new UsageError("there is no such command");
    }
    return { ...values, command, given };
  } catch (error) {
    throw new UsageError(error.message);
  }
}

function request(text) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`the request is not JSON: ${error.message}`);
  }
  if (parsed?.constructor !== Object) throw new UsageError("the request is not a JSON object");
  parsed.request_id ||= newRequestId();
  // Printed before the call, so that it can be repeated whatever happens to the answer.
  process.stderr.write(`request_id ${parsed.request_id}\n`);
  return parsed;
}

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

async function run({ target, caller, command, given }) {
  const asked = command === "create" ? request(given) : given;
  const client = new PaymentClient(target, { caller });
  try {
    if (command === "create") print(await client.createPayment(asked));
    else if (command === "get") print(await client.getPayment({ payment_id: asked }));
    else for await (const payment of client.watchPayment(asked)) print(payment);
  } finally {
    client.close();
  }
}

try {
  await run(arguments_());
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\n${USAGE}`);
    process.exitCode = 2;
  } else if (error instanceof RequestError) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 2;
  } else if (error instanceof PaymeshError) {
    const { code, reason, domain, message, metadata, fields } = error;
    process.stderr.write(`${JSON.stringify({ code, reason, domain, message, metadata, fields })}\n`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
