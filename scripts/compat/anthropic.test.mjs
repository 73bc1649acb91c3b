// The npm package @anthropic-ai/sdk, against a daemon of its own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import Anthropic from '@anthropic-ai/sdk'
import { assertSlotsFree, busyDaemon, busyText, expected, serve, thrownBy, weather } from './harness.mjs'

const daemon = await serve({ models: ['tiny'] })
const connect = (url) => new Anthropic({ baseURL: url, apiKey: 'ollama', maxRetries: 0, timeout: 60_000 })
const client = connect(daemon.url)
const { question, answer } = expected
const messages = [{ role: 'user', content: question }]
const ask = { model: 'demo', max_tokens: 200, messages }
const tools = [{ name: weather.name, description: weather.description, input_schema: weather.parameters }]
const askTool = { ...ask, messages: [{ role: 'user', content: expected.tool.question }], tools }
const endless = { ...ask, model: 'tiny', max_tokens: 10_000 }

test('a message is answered whole', async () => {
  const reply = await client.messages.create(ask)
  assert.match(reply.id, /^msg_/)
  assert.deepEqual([reply.type, reply.role, reply.model, reply.stop_reason], ['message', 'assistant', 'demo', 'end_turn'])
  assert.deepEqual(reply.content, [{ type: 'text', text: answer }])
  assert.ok(reply.usage.input_tokens > 0 && reply.usage.output_tokens > 0)
})

test('a stream has its events in order', async () => {
  const types = []
  let text = ''
  for await (const event of await client.messages.create({ ...ask, stream: true })) {
    types.push(event.type)
    if (event.type === 'content_block_delta') text += event.delta.text
  }
  assert.equal(text, answer)
  assert.deepEqual(types.filter((type, i) => type !== types[i - 1]), [
    'message_start', 'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop',
  ])
})

test("the client's stream accumulator puts the message together", async () => {
  const stream = client.messages.stream(ask)
  const pieces = []
  stream.on('text', (piece) => pieces.push(piece))
  const reply = await stream.finalMessage()
  assert.ok(pieces.length > 1, `${pieces.length} pieces`)
  assert.equal(pieces.join(''), answer)
  assert.deepEqual(reply.content.map((block) => block.text), [answer])
  assert.equal(reply.stop_reason, 'end_turn')
  assert.ok(reply.usage.output_tokens > 0)
})

test('system, blocks of text and stop sequences are honoured', async () => {
  const blocks = [{ role: 'user', content: [{ type: 'text', text: question }] }]
  const system = [{ type: 'text', text: 'You are a helpful assistant.' }]
  const reply = await client.messages.create({ ...ask, messages: blocks, system, stop_sequences: ['daemon'] })
  assert.equal(reply.content[0].text, answer.split('daemon')[0])
})

test('max_tokens limits the answer', async () => {
  const reply = await client.messages.create({ ...ask, max_tokens: 3 })
  assert.deepEqual([reply.stop_reason, reply.usage.output_tokens], ['max_tokens', 3])
})

test('a tool is called, and its result is used', async () => {
  const reply = await client.messages.create(askTool)
  assert.equal(reply.stop_reason, 'tool_use', `it says ${JSON.stringify(reply.content)}`)
  const call = reply.content.find((block) => block.type === 'tool_use')
  assert.deepEqual([call.name, call.input], [weather.name, expected.tool.arguments])
  const result = { type: 'tool_result', tool_use_id: call.id, content: expected.tool.result }
  const conversation = [...askTool.messages, { role: 'assistant', content: reply.content }, { role: 'user', content: [result] }]
  const next = await client.messages.create({ ...askTool, messages: conversation })
  assert.deepEqual(next.content, [{ type: 'text', text: expected.tool.answer }])
})

test("a tool call is streamed; the client's accumulator has its input", async () => {
  const reply = await client.messages.stream(askTool).finalMessage()
  const call = reply.content.find((block) => block.type === 'tool_use')
  assert.deepEqual([call?.name, call?.input], [weather.name, expected.tool.arguments])
  assert.equal(reply.stop_reason, 'tool_use')
})

test("the client's own tool loop runs the function", async () => {
  const called = []
  const run = (input) => {
    called.push(input)
    return expected.tool.result
  }
  const runnable = { ...tools[0], run, parse: (input) => input }
  const reply = await client.beta.messages.toolRunner({ ...askTool, tools: [runnable] })
  assert.deepEqual(called, [expected.tool.arguments])
  assert.equal(reply.content[0].text, expected.tool.answer)
})

test('thinking that a model cannot do is not refused', async () => {
  const reply = await client.messages.create({ ...ask, max_tokens: 2000, thinking: { type: 'enabled', budget_tokens: 1024 } })
  assert.deepEqual(reply.content, [{ type: 'text', text: answer }])
})

test('the list of models can be read', async () => {
  const ids = []
  for await (const model of client.models.list()) ids.push(model.id)
  assert.deepEqual(ids.sort(), ['demo:latest', 'tiny:latest'])
})

test('abort ends a stream and frees its slot', async () => {
  const stream = client.messages.stream(endless)
  stream.on('text', () => stream.abort())
  const error = await thrownBy(stream.done())
  assert.ok(error instanceof Anthropic.APIUserAbortError, `${error}`)
  await assertSlotsFree(daemon)
})

test('leaving the loop over a stream frees its slot', async () => {
  for await (const event of await client.messages.create({ ...endless, stream: true })) {
    if (event.type === 'content_block_delta') break
  }
  await assertSlotsFree(daemon)
})

test('a missing model is a 404', async () => {
  for (const stream of [false, true]) {
    const error = await thrownBy(client.messages.create({ ...ask, model: 'nope', stream }))
    assert.ok(error instanceof Anthropic.NotFoundError, `${error}`)
    assert.deepEqual(error.error.error, { type: 'not_found_error', message: "model 'nope' not found" })
    assert.match(error.error.request_id, /^req_/)
  }
})

test('a wrong request is a 400 with the reason', async () => {
  const limit = await thrownBy(client.messages.create({ ...ask, max_tokens: 0 }))
  assert.ok(limit instanceof Anthropic.BadRequestError, `${limit}`)
  assert.deepEqual(limit.error.error, { type: 'invalid_request_error', message: 'max_tokens is required and must be positive' })
  const none = await thrownBy(client.messages.create({ ...ask, messages: [] }))
  assert.deepEqual([none.status, none.error.error.message], [400, 'messages is required'])
  const call = await thrownBy(client.messages.create({ ...askTool, model: 'tiny' }))
  assert.equal(call.status, 400)
  assert.match(call.error.error.message, /does not support tools$/)
})

test('a full queue is a 503', async () => {
  const busy = await busyDaemon()
  const error = await thrownBy(connect(busy.url).messages.create({ ...ask, model: 'tiny' }))
  assert.deepEqual([error.status, error.error.error], [503, { type: 'overloaded_error', message: busyText }])
  await busy.stop()
})

test('what Ollama does not have is a 404', async () => {
  const error = await thrownBy(client.messages.countTokens({ model: 'demo', messages }))
  assert.equal(error.status, 404)
})
