// The npm package ollama, against a daemon of its own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'
import {
  assertFitsSchema, assertSlotsFree, assertUnitVector, busyDaemon, busyText, expected, serve, shortSchema, thrownBy, weather,
} from './harness.mjs'

const daemon = await serve({ models: ['tiny', 'embed'] })
const client = new Ollama({ host: daemon.url })
const { question, answer } = expected
const messages = [{ role: 'user', content: question }]
const tools = [{ type: 'function', function: weather }]
const endless = { num_predict: -1 }

function assertMetrics(last) {
  assert.equal(last.done, true)
  for (const name of ['total_duration', 'load_duration', 'prompt_eval_count', 'prompt_eval_duration', 'eval_count', 'eval_duration']) {
    assert.ok(last[name] > 0, `${name} is ${last[name]}`)
  }
}

test('chat answers whole', async () => {
  const reply = await client.chat({ model: 'demo', messages })
  assert.equal(reply.message.role, 'assistant')
  assert.equal(reply.message.content, answer)
  assert.equal(reply.model, 'demo')
  assert.equal(reply.done_reason, 'stop')
  assert.ok(!Number.isNaN(Date.parse(reply.created_at)))
  assertMetrics(reply)
})

test('chat streams the same text in pieces', async () => {
  const pieces = []
  let last
  for await (const part of await client.chat({ model: 'demo', messages, stream: true })) {
    pieces.push(part.message.content)
    last = part
  }
  assert.ok(pieces.length > 1, `${pieces.length} pieces`)
  assert.equal(pieces.join(''), answer)
  assertMetrics(last)
})

test('generate answers, and its context goes on with the conversation', async () => {
  const reply = await client.generate({ model: 'demo', prompt: question })
  assert.equal(reply.response, answer)
  assert.ok(reply.context.length > reply.eval_count)
  assertMetrics(reply)
  const next = await client.generate({ model: 'demo', prompt: 'Thanks!', context: reply.context })
  assert.ok(next.prompt_eval_count > reply.prompt_eval_count + reply.eval_count)
  assert.deepEqual(next.context.slice(0, 10), reply.context.slice(0, 10))
})

test('generate streams', async () => {
  let text = ''
  let last
  for await (const part of await client.generate({ model: 'demo', prompt: question, stream: true })) {
    text += part.response
    last = part
  }
  assert.equal(text, answer)
  assertMetrics(last)
})

test('generate in raw mode sees the prompt as it is', async () => {
  const prompt = `<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n`
  const reply = await client.generate({ model: 'demo', prompt, raw: true })
  assert.equal(reply.response, answer)
  assert.equal(reply.context, undefined)
})

test('options limit the answer', async () => {
  const reply = await client.chat({ model: 'demo', messages, options: { num_predict: 3 } })
  assert.equal(reply.done_reason, 'length')
  assert.equal(reply.eval_count, 3)
})

test('a tool is called, and its result is used', async () => {
  const asked = [{ role: 'user', content: expected.tool.question }]
  const { message } = await client.chat({ model: 'demo', messages: asked, tools })
  assert.equal(message.tool_calls?.length, 1, `it says ${JSON.stringify(message)}`)
  const call = message.tool_calls[0].function
  assert.equal(call.name, weather.name)
  assert.deepEqual(call.arguments, expected.tool.arguments)
  const next = [...asked, message, { role: 'tool', tool_name: call.name, content: expected.tool.result }]
  const reply = await client.chat({ model: 'demo', messages: next, tools })
  assert.equal(reply.message.content, expected.tool.answer)
})

test('a tool call is streamed whole', async () => {
  const calls = []
  const asked = [{ role: 'user', content: expected.tool.question }]
  for await (const part of await client.chat({ model: 'demo', messages: asked, tools, stream: true })) {
    calls.push(...(part.message.tool_calls ?? []))
  }
  assert.deepEqual(calls.map((call) => call.function.arguments), [expected.tool.arguments])
})

test('structured output fits its schema', async () => {
  assertFitsSchema((await client.chat({ model: 'demo', messages, format: shortSchema })).message.content)
  assertFitsSchema((await client.generate({ model: 'demo', prompt: question, format: shortSchema })).response)
})

test('format json answers with an object', async () => {
  // A string of the object may hold one of the model's stop strings, which would cut it there.
  const options = { stop: [] }
  const { message, done_reason } = await client.chat({ model: 'demo', messages, format: 'json', options })
  assert.match(message.content, /^\s*\{/)
  if (done_reason === 'stop') JSON.parse(message.content)
})

test('logprobs come with every piece, with alternatives', async () => {
  const reply = await client.chat({ model: 'demo', messages, logprobs: true, top_logprobs: 3 })
  assert.equal(reply.logprobs.map((one) => one.token).join(''), answer)
  for (const one of reply.logprobs) {
    assert.ok(one.logprob <= 0)
    assert.equal(one.top_logprobs.length, 3)
    assert.equal(one.top_logprobs[0].token, one.token) // at temperature 0 the likeliest is taken
  }
})

test('embed gives one unit vector for each text', async () => {
  const reply = await client.embed({ model: 'embed', input: ['a b c', 'd e f', 'a b c'] })
  assert.equal(reply.embeddings.length, 3)
  for (const vector of reply.embeddings) assertUnitVector(vector, 64)
  assert.deepEqual(reply.embeddings[0], reply.embeddings[2])
  assert.notDeepEqual(reply.embeddings[0], reply.embeddings[1])
  assert.ok(reply.prompt_eval_count > 0)
  const [short] = (await client.embed({ model: 'embed', input: 'a b c', dimensions: 16 })).embeddings
  assertUnitVector(short, 16)
})

test('embeddings gives the vector of one text', async () => {
  const { embedding } = await client.embeddings({ model: 'embed', prompt: 'a b c' })
  assertUnitVector(embedding, 64) // Ollama's engine gives the vectors of bert this length on every route
  const [other] = (await client.embed({ model: 'embed', input: 'a b c' })).embeddings
  embedding.forEach((x, i) => assert.ok(Math.abs(x - other[i]) < 1e-5))
})

test('models are created, listed, shown, copied and deleted', async () => {
  assert.equal((await client.create({ model: 'mine', from: 'demo', system: 'You are mine.' })).status, 'success')
  const seen = []
  for await (const line of await client.create({ model: 'mine', from: 'demo', system: 'You are mine.', stream: true })) seen.push(line.status)
  assert.equal(seen.at(-1), 'success')
  const shown = await client.show({ model: 'mine' })
  assert.equal(shown.system, 'You are mine.')
  assert.deepEqual(shown.capabilities, ['completion', 'tools'])
  assert.equal(shown.model_info['general.architecture'], 'qwen3')
  assert.equal((await client.copy({ source: 'mine', destination: 'yours' })).status, 'success')
  const listed = new Map((await client.list()).models.map((model) => [model.name, model]))
  assert.deepEqual([...listed.keys()].sort(), ['demo:latest', 'embed:latest', 'mine:latest', 'tiny:latest', 'yours:latest'])
  assert.equal(listed.get('mine:latest').digest, listed.get('yours:latest').digest)
  assert.equal((await client.delete({ model: 'yours' })).status, 'success')
  assert.equal((await client.list()).models.length, 4)
})

test('ps tells what is loaded; an empty prompt loads and keep_alive 0 unloads', async () => {
  assert.equal((await client.generate({ model: 'tiny', prompt: '', keep_alive: '10m' })).done_reason, 'load')
  const loaded = (await client.ps()).models.find((model) => model.name === 'tiny:latest')
  assert.equal(loaded.context_length, 1024)
  assert.ok(loaded.size > 0)
  const minutes = (Date.parse(loaded.expires_at) - Date.now()) / 60_000
  assert.ok(minutes > 9 && minutes <= 10, `it expires in ${minutes} minutes`)
  assert.equal((await client.generate({ model: 'tiny', prompt: '', keep_alive: 0 })).done_reason, 'unload')
  assert.equal((await client.ps()).models.find((model) => model.name === 'tiny:latest'), undefined)
})

test("the version opens the client's gates", async () => {
  assert.equal((await client.version()).version, '0.17.4')
})

test('abort ends a stream and frees its slot', async () => {
  const stream = await client.chat({ model: 'tiny', messages, stream: true, options: endless })
  const error = await thrownBy((async () => {
    for await (const _ of stream) stream.abort()
  })())
  assert.equal(error.name, 'AbortError')
  await assertSlotsFree(daemon)
})

test('abort of the client ends all its streams', async () => {
  const own = new Ollama({ host: daemon.url })
  const streams = await Promise.all([1, 2].map(() => own.generate({ model: 'tiny', prompt: 'x', stream: true, options: endless })))
  const ended = streams.map((stream) => thrownBy((async () => {
    for await (const _ of stream);
  })()))
  own.abort()
  for (const error of await Promise.all(ended)) assert.equal(error.name, 'AbortError')
  await assertSlotsFree(daemon)
})

test('a missing model is a 404 with its name', async () => {
  const error = await thrownBy(client.chat({ model: 'nope', messages }))
  assert.deepEqual([error.name, error.status_code, error.error], ['ResponseError', 404, "model 'nope' not found"])
  const embed = await thrownBy(client.embed({ model: 'nope', input: 'x' }))
  assert.deepEqual([embed.status_code, embed.error], [404, 'model "nope" not found, try pulling it first'])
})

test('a wrong request is a 400 with the reason', async () => {
  const think = await thrownBy(client.chat({ model: 'demo', messages, think: true }))
  assert.deepEqual([think.status_code, think.error], [400, '"demo" does not support thinking'])
  const call = await thrownBy(client.chat({ model: 'tiny', messages, tools }))
  assert.deepEqual([call.status_code, call.error], [400, 'registry.ollama.ai/library/tiny:latest does not support tools'])
})

test('a full queue is a 503', async () => {
  const busy = await busyDaemon()
  const error = await thrownBy(new Ollama({ host: busy.url }).chat({ model: 'tiny', messages }))
  assert.deepEqual([error.status_code, error.error], [503, busyText])
  await busy.stop()
})
