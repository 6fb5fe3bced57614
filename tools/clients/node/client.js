// A client of the Curator on grpc-js: MODE ADDRESS DESCRIPTORS [CA CERTIFICATE KEY NAME].
//
// What it does in each mode, and what it says, is the same for each client here: see curator-service/tests/integration/tls/clients.rs.

"use strict";

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const LIMIT = 20_000;

const [mode, address, descriptors, ...secrets] = process.argv.slice(2);
const definition = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), { keepCase: true, defaults: true });
const packages = grpc.loadPackageDefinition(definition);
const api = packages.metropolis.proto.api;
const node = packages.metropolis.node.core.curator.proto.api;

function open(Service) {
  const options = { "grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 500 };
  if (secrets.length === 0) {
    return new Service(address, grpc.credentials.createInsecure(), options);
  }
  const [ca, certificate, key] = secrets.slice(0, 3).map((path) => fs.readFileSync(path));
  options["grpc.ssl_target_name_override"] = secrets[3];
  return new Service(address, grpc.credentials.createSsl(ca, key, certificate), options);
}

const say = (...words) => console.log(words.join(" "));
const deadline = () => ({ deadline: Date.now() + LIMIT });

// The answer of a call that has one.
function unary(service, name, request, more = {}) {
  return new Promise((resolve, reject) => {
    service[name](request, new grpc.Metadata(more), deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// All that a stream says.
async function all(stream) {
  const answers = [];
  for await (const answer of stream) answers.push(answer);
  return answers;
}

// The number of the status that a call ends with.
async function code(answer) {
  try {
    await answer;
    return 0;
  } catch (error) {
    return error.code;
  }
}

async function calls() {
  const management = open(api.Management);
  const info = await unary(management, "GetClusterInfo", {}, { waitForReady: true });
  say("cluster-info", (info.cluster_directory?.nodes ?? []).length);
  const nodes = await all(management.GetNodes({ filter: "has(node.roles.consensus_member)" }, deadline()));
  say("nodes", nodes.length);
  const { ticket } = await unary(management, "GetRegisterTicket", {});
  say("ticket", ticket.length);
  await unary(management, "UpdateNodeLabels", { id: nodes[0].id, upsert: [{ key: "client", value: "node" }] });
  say("labelled", nodes[0].id);
  const beat = open(node.Curator).Heartbeat(deadline());
  const beaten = code(all(beat));
  beat.write({});
  beat.end();
  say("heartbeat", await beaten);
  process.exit(0);
}

async function plain() {
  const leaders = open(node.CuratorLocal).GetCurrentLeader({}, new grpc.Metadata({ waitForReady: true }), deadline());
  for await (const leader of leaders) {
    say("leader", leader.leader_node_id);
    break;
  }
  say("refused", await code(unary(open(api.Management), "GetClusterInfo", {})));
  process.exit(0);
}

async function watch() {
  const curator = open(node.Curator);
  for (;;) {
    try {
      for await (const event of curator.Watch({ nodes_in_cluster: {} })) {
        for (const { labels } of event.nodes ?? []) {
          for (const { key, value } of labels?.pairs ?? []) if (key === "seen") say("seen", value);
        }
        if (event.progress === 1) say("watching");
      }
      say("lost 0");
    } catch (error) {
      say("lost", error.code);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

({ calls, plain, watch })[mode]().catch((error) => {
  console.error(error);
  process.exit(1);
});
