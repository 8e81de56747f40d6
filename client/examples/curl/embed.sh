#!/bin/sh
# Embeds a text and a picture: prints two JSON answers, each with the embedding under outputs.
# usage: embed.sh http://localhost:8000 "a photo of a cat" cat.jpg
set -eu
server=$1 text=$2 picture=$3

# infer MODEL TENSOR < bytes: one item. The body is JSON, then the item: its length as 4 bytes, the
# low one first, and its bytes. So no text has to be quoted and no picture to become base64.
infer() {
  item=$(mktemp)
  cat >"$item"
  size=$(($(wc -c <"$item")))
  json="{\"inputs\":[{\"name\":\"$2\",\"datatype\":\"BYTES\",\"shape\":[1,1],\
\"parameters\":{\"binary_data_size\":$((size + 4))}}]}"
  {
    printf '%s' "$json"
    for shift in 0 8 16 24; do
      # shellcheck disable=SC2059
      printf "\\$(printf '%03o' $((size >> shift & 255)))"
    done
    cat "$item"
  } | curl --silent --show-error --fail-with-body --max-time 60 --noproxy '*' \
    --header 'Content-Type: application/octet-stream' \
    --header "Inference-Header-Content-Length: ${#json}" \
    --data-binary @- "$server/v2/models/$1/infer" && status=0 || status=$?
  rm -f "$item"
  echo
  return $status
}

printf '%s' "$text" | infer clip_text_string text
infer clip_image_file image <"$picture"
