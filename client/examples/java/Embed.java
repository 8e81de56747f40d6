// Embeds a text and a picture over HTTP and prints how similar they are. Needs the JDK alone.
// usage: java Embed.java http://localhost:8000 "a photo of a cat" cat.jpg
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

public class Embed {
    // One for the whole program: it keeps its connections.
    private static final HttpClient CLIENT =
            HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();

    private static final String LENGTH_OF_JSON = "Inference-Header-Content-Length";

    /** One item, UTF-8 or an encoded picture, to an embedding of length 1. */
    static float[] embed(String server, String model, String tensor, byte[] item)
            throws IOException, InterruptedException {
        byte[] json =
                ("{\"inputs\":[{\"name\":\"" + tensor + "\",\"datatype\":\"BYTES\",\"shape\":[1,1],"
                                + "\"parameters\":{\"binary_data_size\":" + (item.length + 4) + "}}],"
                                + "\"outputs\":[{\"name\":\"embedding\","
                                + "\"parameters\":{\"binary_data\":true}}]}")
                        .getBytes(StandardCharsets.UTF_8);
        // JSON, then the item: its length as 4 bytes, the low one first, and its bytes.
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        body.write(json);
        body.write(
                ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(item.length).array());
        body.write(item);
        HttpRequest request =
                HttpRequest.newBuilder(URI.create(server + "/v2/models/" + model + "/infer"))
                        .header("Content-Type", "application/octet-stream")
                        .header(LENGTH_OF_JSON, String.valueOf(json.length))
                        .timeout(Duration.ofSeconds(60))
                        .POST(HttpRequest.BodyPublishers.ofByteArray(body.toByteArray()))
                        .build();
        HttpResponse<byte[]> answer =
                CLIENT.send(request, HttpResponse.BodyHandlers.ofByteArray());
        if (answer.statusCode() != 200) {
            String reason = new String(answer.body(), StandardCharsets.UTF_8);
            throw new IOException("status " + answer.statusCode() + ": " + reason);
        }
        // The answer is built alike: JSON, then the embedding as little-endian float32.
        int head = Integer.parseInt(answer.headers().firstValue(LENGTH_OF_JSON).orElseThrow());
        ByteBuffer values =
                ByteBuffer.wrap(answer.body(), head, answer.body().length - head)
                        .order(ByteOrder.LITTLE_ENDIAN);
        float[] embedding = new float[values.remaining() / Float.BYTES];
        values.asFloatBuffer().get(embedding);
        return embedding;
    }

    public static void main(String[] arguments) throws InterruptedException {
        try {
            byte[] words = arguments[1].getBytes(StandardCharsets.UTF_8);
            byte[] file = Files.readAllBytes(Path.of(arguments[2]));
            float[] text = embed(arguments[0], "clip_text_string", "text", words);
            float[] picture = embed(arguments[0], "clip_image_file", "image", file);
            double similarity = 0;
            for (int place = 0; place < text.length; place++) {
                similarity += (double) text[place] * picture[place];
            }
            System.out.println(similarity);
        } catch (IOException error) {
            // 400: fix the item. 503: wait, then try again.
            System.err.println(error.getMessage());
            System.exit(1);
        }
    }
}
