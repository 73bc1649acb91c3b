// The npm package openai, against a daemon of its own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI from 'openai'
import {
  assertFitsSchema, assertSlotsFree, assertUnitVector, busyDaemon, busyText, expected, serve, shortSchema, thrownBy, weather,
} from './harness.mjs'

const daemon = await serve({ models: ['tiny', 'embed'] })
const connect = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'ollama', maxRetries: 0, timeout: 60_000 })
const client = connect(daemon.url)
const { question, answer } = expected
const temperature = 0 // without it this API asks for 1
const messages = [{ role: 'user', content: question }]
const ask = { model: 'demo', messages, temperature }
const askTool = { ...ask, messages: [{ role: 'user', content: expected.tool.question }], tools: [{ type: 'function', function: weather }] }
const askSchema = { ...ask, response_format: { type: 'json_schema', json_schema: { name: 'short', schema: shortSchema } } }
const endless = { model: 'tiny', messages, stream: true, max_tokens: 10_000 }

function assertUsage(usage) {
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0)
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
}

test('chat answers whole', async () => {
  const reply = await client.chat.completions.create(ask)
  assert.equal(reply.object, 'chat.completion')
  assert.match(reply.id, /^chatcmpl-/)
  assert.equal(reply.model, 'demo')
  assert.equal(reply.choices.length, 1)
  assert.equal(reply.choices[0].message.role, 'assistant')
  assert.equal(reply.choices[0].message.content, answer)
  assert.equal(reply.choices[0].finish_reason, 'stop')
  assertUsage(reply.usage)
})

test('chat streams the same text in pieces, and the usage last', async () => {
  const pieces = []
  let last, finish
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    assert.equal(chunk.object, 'chat.completion.chunk')
    if (chunk.choices.length) pieces.push(chunk.choices[0].delta.content ?? '')
    finish = chunk.choices[0]?.finish_reason ?? finish
    last = chunk
  }
  assert.ok(pieces.length > 1, `${pieces.length} pieces`)
  assert.equal(pieces.join(''), answer)
  assert.equal(finish, 'stop')
  assert.deepEqual(last.choices, [])
  assertUsage(last.usage)
})

test("the client's stream accumulator puts the answer together", async () => {
  const reply = await client.chat.completions.stream(ask).finalChatCompletion()
  assert.equal(reply.choices[0].message.content, answer)
  assert.equal(reply.choices[0].finish_reason, 'stop')
})

test('a system message, several parts and stop strings are honoured', async () => {
  const parts = [{ type: 'text', text: question }]
  const said = [{ role: 'system', content: 'You are a helpful assistant.' }, { role: 'user', content: parts }]
  const reply = await client.chat.completions.create({ ...ask, messages: said, stop: ['daemon'] })
  assert.equal(reply.choices[0].message.content, answer.split('daemon')[0])
  assert.equal(reply.choices[0].finish_reason, 'stop')
})

test('both names of the token limit are honoured', async () => {
  for (const limit of ['max_tokens', 'max_completion_tokens']) {
    const reply = await client.chat.completions.create({ ...ask, [limit]: 3 })
    assert.equal(reply.choices[0].finish_reason, 'length', limit)
    assert.equal(reply.usage.completion_tokens, 3, limit)
  }
})

test('a tool is called, and its result is used', async () => {
  const reply = await client.chat.completions.create(askTool)
  const { message, finish_reason } = reply.choices[0]
  assert.equal(finish_reason, 'tool_calls', `it says ${JSON.stringify(message)}`)
  assert.equal(message.tool_calls.length, 1)
  const call = message.tool_calls[0]
  assert.match(call.id, /^call_/)
  assert.deepEqual([call.type, call.function.name], ['function', weather.name])
  assert.deepEqual(JSON.parse(call.function.arguments), expected.tool.arguments)
  const result = { role: 'tool', tool_call_id: call.id, content: expected.tool.result }
  const next = await client.chat.completions.create({ ...askTool, messages: [...askTool.messages, message, result] })
  assert.equal(next.choices[0].message.content, expected.tool.answer)
})

test("the client's own tool loop runs the function", async () => {
  const called = []
  const run = (args) => {
    called.push(args)
    return expected.tool.result
  }
  const tools = [{ type: 'function', function: { ...weather, function: run, parse: JSON.parse } }]
  const runner = client.chat.completions.runTools({ ...askTool, tools })
  assert.equal(await runner.finalContent(), expected.tool.answer)
  assert.deepEqual(called, [expected.tool.arguments])
})

test('a tool call is streamed', async () => {
  const reply = await client.chat.completions.stream(askTool).finalChatCompletion()
  const [call] = reply.choices[0].message.tool_calls
  assert.equal(call.function.name, weather.name)
  assert.deepEqual(JSON.parse(call.function.arguments), expected.tool.arguments)
  assert.equal(reply.choices[0].finish_reason, 'tool_calls')
})

test('structured output fits its schema, whole, streamed and parsed by the client', async () => {
  assertFitsSchema((await client.chat.completions.create(askSchema)).choices[0].message.content)
  assertFitsSchema(await client.chat.completions.stream(askSchema).finalContent())
  const parsed = (await client.chat.completions.parse(askSchema)).choices[0].message.content
  assertFitsSchema(parsed)
})

test('json_object answers with an object', async () => {
  const reply = await client.chat.completions.create({ ...ask, max_tokens: 64, response_format: { type: 'json_object' } })
  assert.match(reply.choices[0].message.content, /^\s*\{/)
})

test('logprobs come with every token, with alternatives', async () => {
  const reply = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2 })
  const { content } = reply.choices[0].logprobs
  assert.equal(content.map((one) => one.token).join(''), answer)
  for (const one of content) {
    assert.ok(one.logprob <= 0)
    assert.equal(one.top_logprobs.length, 2)
    assert.deepEqual(one.bytes, [...Buffer.from(one.token)])
  }
})

test('completions answer whole and streamed', async () => {
  const reply = await client.completions.create({ model: 'demo', prompt: question, temperature })
  assert.equal(reply.object, 'text_completion')
  assert.equal(reply.choices[0].text, answer)
  assertUsage(reply.usage)
  let text = ''
  for await (const chunk of await client.completions.create({ model: 'demo', prompt: question, temperature, stream: true })) {
    text += chunk.choices[0]?.text ?? ''
  }
  assert.equal(text, answer)
})

test('embeddings come as base64, the default of the client, and as numbers', async () => {
  const input = ['a b c', 'd e f']
  const { data, usage } = await client.embeddings.create({ model: 'embed', input })
  assert.deepEqual(data.map((one) => one.index), [0, 1])
  for (const one of data) assertUnitVector(one.embedding, 64)
  assert.ok(usage.prompt_tokens > 0)
  const numbers = await client.embeddings.create({ model: 'embed', input, encoding_format: 'float' })
  numbers.data.forEach((one, i) => one.embedding.forEach((x, j) => assert.ok(Math.abs(x - data[i].embedding[j]) < 1e-6)))
  const text = await client.embeddings.create({ model: 'embed', input: 'a b c', encoding_format: 'base64' })
  assert.equal(Buffer.from(text.data[0].embedding, 'base64').length, 4 * 64)
  const short = await client.embeddings.create({ model: 'embed', input: 'a b c', dimensions: 16 })
  assertUnitVector(short.data[0].embedding, 16)
})

test('models are listed and retrieved', async () => {
  const ids = []
  for await (const model of client.models.list()) {
    assert.deepEqual([model.object, model.owned_by], ['model', 'library'])
    ids.push(model.id)
  }
  assert.deepEqual(ids.sort(), ['demo:latest', 'embed:latest', 'tiny:latest'])
  const one = await client.models.retrieve('demo')
  assert.deepEqual([one.id, one.object], ['demo', 'model'])
  assert.ok(one.created > 1_600_000_000)
})

test('responses answer whole', async () => {
  const reply = await client.responses.create({ model: 'demo', input: question, temperature })
  assert.equal(reply.object, 'response')
  assert.equal(reply.status, 'completed')
  assert.equal(reply.output_text, answer)
  assert.ok(reply.usage.input_tokens > 0 && reply.usage.output_tokens > 0)
})

test('responses stream their events in order', async () => {
  const types = []
  let text = ''
  let last
  for await (const event of await client.responses.create({ model: 'demo', input: messages, temperature, stream: true })) {
    assert.equal(event.sequence_number, types.length)
    types.push(event.type)
    if (event.type === 'response.output_text.delta') text += event.delta
    last = event
  }
  assert.equal(text, answer)
  assert.deepEqual(types.filter((type, i) => type !== types[i - 1]), [
    'response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
    'response.output_text.delta', 'response.output_text.done', 'response.content_part.done', 'response.output_item.done',
    'response.completed',
  ])
  assert.equal(last.response.output[0].content[0].text, answer)
})

test('responses call tools, and use their results', async () => {
  const tools = [{ type: 'function', strict: false, ...weather }]
  const input = [{ role: 'user', content: expected.tool.question }]
  const reply = await client.responses.create({ model: 'demo', input, tools, temperature })
  const call = reply.output.find((item) => item.type === 'function_call')
  assert.ok(call, `it says ${JSON.stringify(reply.output)}`)
  assert.equal(call.name, weather.name)
  assert.deepEqual(JSON.parse(call.arguments), expected.tool.arguments)
  const result = { type: 'function_call_output', call_id: call.call_id, output: expected.tool.result }
  const next = await client.responses.create({ model: 'demo', input: [...input, call, result], tools, temperature })
  assert.equal(next.output_text, expected.tool.answer)
  const streamed = await client.responses.stream({ model: 'demo', input, tools, temperature }).finalResponse()
  assert.deepEqual(JSON.parse(streamed.output.find((item) => item.type === 'function_call').arguments), expected.tool.arguments)
})

test('responses fit a schema', async () => {
  const format = { type: 'json_schema', name: 'short', schema: shortSchema }
  const reply = await client.responses.create({ model: 'demo', input: question, temperature, text: { format } })
  assertFitsSchema(reply.output_text)
})

test('abort ends a stream and frees its slot', async () => {
  const stream = await client.chat.completions.create(endless)
  for await (const _ of stream) stream.controller.abort()
  await assertSlotsFree(daemon)
  const signal = new AbortController()
  const error = await thrownBy((async () => {
    const whole = client.chat.completions.create({ ...endless, stream: false }, { signal: signal.signal })
    setTimeout(() => signal.abort(), 100)
    await whole
  })())
  assert.ok(error instanceof OpenAI.APIUserAbortError, `${error}`)
  await assertSlotsFree(daemon)
})

test('leaving the loop over a stream frees its slot', async () => {
  for await (const _ of await client.responses.create({ model: 'tiny', input: 'x', stream: true })) break
  await assertSlotsFree(daemon)
})

test('a missing model is a 404 everywhere', async () => {
  const model = 'nope'
  const calls = {
    chat: () => client.chat.completions.create({ ...ask, model }),
    completions: () => client.completions.create({ model, prompt: 'x' }),
    embeddings: () => client.embeddings.create({ model, input: 'x' }),
    retrieve: () => client.models.retrieve(model),
    responses: () => client.responses.create({ model, input: 'x' }),
    stream: () => client.chat.completions.create({ ...ask, model, stream: true }),
  }
  for (const [name, call] of Object.entries(calls)) {
    const error = await thrownBy(call())
    assert.ok(error instanceof OpenAI.NotFoundError, `${name}: ${error}`)
    assert.equal(error.type, 'not_found_error', name)
    assert.match(error.message, /^404 model ['"]nope['"] not found/, name)
  }
})

test('a wrong request is a 400 with the reason', async () => {
  const empty = await thrownBy(client.chat.completions.create({ ...ask, messages: [] }))
  assert.ok(empty instanceof OpenAI.BadRequestError, `${empty}`)
  assert.deepEqual([empty.type, empty.message], ['invalid_request_error', "400 [] is too short - 'messages'"])
  const tools = await thrownBy(client.chat.completions.create({ ...askTool, model: 'tiny' }))
  assert.ok(tools instanceof OpenAI.BadRequestError, `${tools}`)
  assert.match(tools.message, /does not support tools$/)
  const input = await thrownBy(client.embeddings.create({ model: 'embed', input: [] }))
  assert.deepEqual([input.status, input.message], [400, '400 invalid input'])
})

test('a full queue is a 503 that says when to try again', async () => {
  const busy = await busyDaemon()
  const error = await thrownBy(connect(busy.url).chat.completions.create({ ...ask, model: 'tiny' }))
  assert.ok(error instanceof OpenAI.InternalServerError, `${error}`)
  assert.deepEqual([error.status, error.message], [503, `503 ${busyText}`])
  assert.match(error.headers.get('retry-after'), /^\d+$/)
  await busy.stop()
})
