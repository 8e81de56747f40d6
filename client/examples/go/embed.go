// Embeds a text and a picture over HTTP and prints how similar they are. Needs the standard
// library alone.
// usage: go run embed.go http://localhost:8000 "a photo of a cat" cat.jpg
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const lengthOfJSON = "Inference-Header-Content-Length"

// One for the whole program: it keeps its connections. Without a timeout a call may wait for ever.
var client = &http.Client{Timeout: 60 * time.Second}

// embed turns one item, UTF-8 or an encoded picture, into an embedding of length 1.
func embed(server, model, tensor string, item []byte) ([]float32, error) {
	head, err := json.Marshal(map[string]any{
		"inputs": []any{map[string]any{
			"name": tensor, "datatype": "BYTES", "shape": []int{1, 1},
			"parameters": map[string]any{"binary_data_size": len(item) + 4},
		}},
		"outputs": []any{map[string]any{
			"name": "embedding", "parameters": map[string]any{"binary_data": true},
		}},
	})
	if err != nil {
		return nil, err
	}
	// JSON, then the item: its length as 4 bytes, the low one first, and its bytes.
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(item)))
	body := bytes.Join([][]byte{head, length, item}, nil)
	request, err := http.NewRequest("POST", server+"/v2/models/"+model+"/infer", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set(lengthOfJSON, strconv.Itoa(len(head)))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		// 400: fix the item. 503: wait, then try again.
		return nil, fmt.Errorf("status %d: %s", answer.StatusCode, content)
	}
	// The answer is built alike: JSON, then the embedding as little-endian float32.
	skipped, err := strconv.Atoi(answer.Header.Get(lengthOfJSON))
	if err != nil || skipped > len(content) {
		return nil, fmt.Errorf("the answer holds no embedding: %q", answer.Header.Get(lengthOfJSON))
	}
	embedding := make([]float32, (len(content)-skipped)/4)
	return embedding, binary.Read(bytes.NewReader(content[skipped:]), binary.LittleEndian, embedding)
}

func similarity(server, text, file string) (float64, error) {
	picture, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	words, err := embed(server, "clip_text_string", "text", []byte(text))
	if err != nil {
		return 0, err
	}
	seen, err := embed(server, "clip_image_file", "image", picture)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for place := range words {
		sum += float64(words[place]) * float64(seen[place])
	}
	return sum, nil
}

func main() {
	found, err := similarity(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(found)
}
