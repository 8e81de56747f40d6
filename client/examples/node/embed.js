// Embeds texts and pictures over gRPC and prints how similar each picture is to each text.
// usage: node embed.js localhost:8001 "a photo of a cat" "a photo of a dog" -- cat.jpg dog.jpg
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('../proto/inference.proto', import.meta.url));
const { inference } = grpc.loadPackageDefinition(
  protoLoader.loadSync(PROTO, { keepCase: true, longs: Number, defaults: true }),
);

// One client for the whole program: it keeps its connection and finds it again.
function connect(address) {
  return new inference.GRPCInferenceService(address, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 1000,
  });
}

// An item on the wire: its length as 4 bytes, the low one first, and its bytes.
function onTheWire(item) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(item.length);
  return Buffer.concat([length, item]);
}

// items: Buffers, UTF-8 texts or encoded pictures. Resolves to one Float32Array of length 1 each.
function embed(client, model, tensor, items) {
  const request = {
    model_name: model,
    inputs: [{ name: tensor, datatype: 'BYTES', shape: [items.length, 1] }],
    outputs: [{ name: 'embedding' }],
    raw_input_contents: [Buffer.concat(items.map(onTheWire))],
  };
  // Without a deadline a call may wait for ever.
  const options = { deadline: Date.now() + 60_000 };
  return new Promise((resolve, reject) => {
    client.ModelInfer(request, options, (error, answer) => {
      if (error) return reject(error);
      const [rows, dim] = answer.outputs[0].shape;
      // A copy, because float32 has to begin at a multiple of 4.
      const values = new Float32Array(Uint8Array.from(answer.raw_output_contents[0]).buffer);
      resolve(Array.from({ length: rows }, (_, row) => values.subarray(row * dim, (row + 1) * dim)));
    });
  });
}

const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

const [address, ...given] = process.argv.slice(2);
const texts = given.slice(0, given.indexOf('--'));
const files = given.slice(given.indexOf('--') + 1);
const client = connect(address);
try {
  const read = await Promise.all(files.map((file) => readFile(file)));
  const encoded = texts.map((text) => Buffer.from(text, 'utf8'));
  const [words, pictures] = await Promise.all([
    embed(client, 'clip_text_string', 'text', encoded),
    embed(client, 'clip_image_file', 'image', read),
  ]);
  for (const picture of pictures) {
    console.log(words.map((word) => dot(picture, word).toFixed(6)).join(' '));
  }
} catch (error) {
  // INVALID_ARGUMENT: fix the item. UNAVAILABLE, DEADLINE_EXCEEDED: wait, then try again.
  console.error(`${grpc.status[error.code] ?? error.code}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
