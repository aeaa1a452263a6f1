// Turns of @mastra/pg, driven by `peers.py` as `peer.py` is. Given {modules, connection, schema, threads,
// seconds, pool, what, texts} as JSON: it prints "ready", waits for a line, and prints one line of JSON.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { randomUUID } from 'node:crypto';

const given = JSON.parse(process.argv[2]);
const resolver = createRequire(given.modules + '/');
const load = (name) => import(pathToFileURL(resolver.resolve(name)).href);
const { PostgresStore } = await load('@mastra/pg');
const { Memory } = await load('@mastra/memory');
const { Agent } = await load('@mastra/core/agent');

const storage = new PostgresStore({ id: 'bench', ...given.connection, schemaName: given.schema, max: given.pool });
await storage.init();
const memory = new Memory({ storage, vector: false, options: { lastMessages: 20 } });
const resourceId = 'ann';
const [question, answer] = given.texts;

const usage = { inputTokens: 10, outputTokens: 10, totalTokens: 20 };
const model = {
  specificationVersion: 'v2', provider: 'bench', modelId: 'bench', supportedUrls: {},
  doGenerate: async () => ({ content: [{ type: 'text', text: answer }], finishReason: 'stop', usage, warnings: [] }),
  doStream: async () => ({
    stream: ReadableStream.from([
      { type: 'stream-start', warnings: [] },
      { type: 'text-start', id: '1' },
      { type: 'text-delta', id: '1', delta: answer },
      { type: 'text-end', id: '1' },
      { type: 'finish', finishReason: 'stop', usage },
    ]),
  }),
};
const agent = new Agent({ id: 'bench', name: 'bench', instructions: 'You are helpful.', model, memory });

const message = (role, text, threadId) => ({
  id: randomUUID(), role, createdAt: new Date(), threadId, resourceId, type: 'text',
  content: { format: 2, parts: [{ type: 'text', text }] },
});

async function turn(threadId) {
  if (given.what === 'agent') {
    const result = await agent.generate(question, { memory: { thread: threadId, resource: resourceId } });
    if (result.text !== answer) throw new Error(`the agent said ${result.text}`);
    return;
  }
  if (given.what === 'read and save') await memory.recall({ threadId, resourceId, perPage: 20 });
  const messages = [message('user', question, threadId), message('assistant', answer, threadId)];
  await memory.saveMessages({ messages });
}

for (const threadId of given.threads) {
  if (!(await memory.getThreadById({ threadId }))) await memory.createThread({ threadId, resourceId, title: 'bench' });
  for (let n = 0; n < 10; n++) await turn(threadId);
}
console.log('ready');
await new Promise((resolve) => process.stdin.once('data', resolve));

const times = [];
const errors = {};
const cpu = process.cpuUsage();
const start = performance.now();
await Promise.all(given.threads.map(async (threadId) => {
  for (let now = start; now < start + given.seconds * 1000;) {
    const before = now;
    try {
      await turn(threadId);
    } catch (error) {
      const told = String(error.cause?.message ?? error.message).slice(0, 100);
      errors[told] = (errors[told] ?? 0) + 1;
    }
    now = performance.now();
    times.push(now - before);
  }
}));
const elapsed = (performance.now() - start) / 1000;
const used = process.cpuUsage(cpu);
const told = JSON.stringify({ times, errors, elapsed, cpu: (used.user + used.system) / 1e6 });
process.stdout.write(told + '\n', () => process.exit(0)); // an exit would cut what the pipe has not taken yet
