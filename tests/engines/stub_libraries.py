"""Writes empty stand-ins for the CUDA libraries that a PyTorch wheel loads, so that a machine without CUDA
can import it.

    python stub_libraries.py SITE_PACKAGES        # needs gcc, readelf and nm

Every symbol that the wheel's libraries use and none of them defines becomes a function that returns an
error code, under the version that it is asked for. Nothing that touches a device works; vLLM's client
touches none.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# What the system has.
SYSTEM = re.compile(r"^(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|util)\.so\.|ld-linux)")
# Names that CUDA libraries define.
CUDA = re.compile(r"^_*(cu|nccl|nv|CU|cudnn)")
# cudaErrorNoDevice.
ANSWER = 100


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(site_packages: str) -> None:
    folder = Path(site_packages) / "torch" / "lib"
    libraries = sorted(folder.glob("*.so*"))
    needed, wanted, defined = set(), defaultdict(set), set()
    for library in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.+)\]", output("readelf", "-d", str(library))))
        for line in output("nm", "-D", str(library)).splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            if kind == "U":
                wanted[name].add(version.lstrip("@"))
            elif kind not in ("w", "v"):
                defined.add(name)
    absent = {name for name in needed if not SYSTEM.match(name)} - {library.name for library in libraries}
    by_library = defaultdict(lambda: defaultdict(set))
    fallback = next(name for name in sorted(absent) if name.startswith("libcudart"))
    for name, versions in wanted.items():
        if name not in defined and CUDA.match(name):
            for version in versions:
                # CUDA's version names are library names; what has none, or another one, may live anywhere.
                by_library[version if version in absent else fallback][version].add(name)
    for library in sorted(absent):
        versions = by_library[library]
        with tempfile.TemporaryDirectory() as scratch:
            source, script = Path(scratch) / "stub.c", Path(scratch) / "stub.map"
            names = sorted(set().union(*versions.values())) if versions else []
            functions = "".join(f"long {name}(void) {{ return {ANSWER}; }}\n" for name in names)
            source.write_text(functions or "int balanceroute_empty;\n")
            command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", "-o", str(folder / library)]
            command += [str(source), f"-Wl,-soname,{library}"]
            if named := {version: symbols for version, symbols in versions.items() if version}:
                blocks = []
                for version, symbols in named.items():
                    blocks.append(f"{version} {{ global: {' '.join(f'{s};' for s in sorted(symbols))} }};\n")
                script.write_text("".join(blocks))
                command.append(f"-Wl,--version-script={script}")
            subprocess.run(command, check=True)
            print(f"{library}: {len(names)} symbols")


if __name__ == "__main__":
    main(sys.argv[1])
