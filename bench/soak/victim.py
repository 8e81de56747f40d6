"""A client that is killed in the middle of its calls: the program of a process of its own.

It asks for pictures from several threads, through shared memory and over the wire, and says so
once the first answer has come.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from cliprt import Client, CliprtError, Connection, Retry


def main(address: str) -> None:
    """Asks until it is killed."""
    pictures = [np.full((64, 64, 3), number, np.uint8) for number in range(32)]
    retry = Retry(wait_for_server=True)
    clients = [
        Client(Connection(address, retry=retry, shared_memory=shared), timeout_s=60)
        for shared in (True, False)
    ]
    clients[0].encode_image(pictures)

    def work(client: Client) -> None:
        while True:
            try:
                client.encode_image(pictures)
            except CliprtError as error:  # the server may be killed, too
                print(error, file=sys.stderr)

    for client in (*clients, *clients):
        threading.Thread(target=work, args=(client,), daemon=True).start()
    print("asking", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
