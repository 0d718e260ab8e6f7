"""What node-driver-registrar does, with its flags, for a cluster where its image cannot be had: asks the driver's name, and registers
it with kubelet until SIGTERM. Runs in the driver's image, whose code offers the registration socket; the driver itself is not asked to.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

import grpc

from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.csi.registration import Registration

_DRIVER_SECONDS = 60

parser = argparse.ArgumentParser()
parser.add_argument("--csi-address", required=True)
parser.add_argument("--kubelet-registration-path", required=True)
flags = parser.parse_args()

with grpc.insecure_channel(f"unix:{flags.csi_address}") as channel:
    identity = csi_pb2_grpc.IdentityStub(channel)
    name = identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=_DRIVER_SECONDS, wait_for_ready=True).name
registration = Registration(Path("/registration"), name, flags.kubelet_registration_path)
registration.start()
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
registration.stop()
