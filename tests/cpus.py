"""What /proc/cpuinfo shows of several CPUs: the lines of the first core that name it, and its features."""

_BASE = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ht syscall nx "
    "rdtscp lm constant_tsc rep_good nopl xtopology pni pclmulqdq ssse3 cx16 sse4_1 sse4_2 popcnt aes xsave avx "
    "hypervisor lahf_lm"
)
_AVX2 = f"{_BASE} fma movbe f16c rdrand abm fsgsbase bmi1 avx2 smep bmi2 erms invpcid xsaveopt"
_SKYLAKE = f"{_AVX2} 3dnowprefetch mpx avx512f avx512dq rdseed adx smap clflushopt clwb avx512cd avx512bw avx512vl"
_ZEN = f"{_AVX2} mmxext fxsr_opt pdpe1gb cr8_legacy sse4a misalignsse topoext perfctr_core rdseed adx smap sha_ni"
_ZEN4 = (
    f"{_ZEN} avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 gfni vaes "
    "vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq"
)
_SAPPHIRE_RAPIDS = (
    f"{_SKYLAKE} avx512_vnni avx_vnni avx512_bf16 avx512_fp16 serialize tsxldtrk amx_bf16 amx_tile amx_int8 arch_lbr"
)
_ARM = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_NEOVERSE_V1 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
)


def _x86(vendor: str, family: int, model: int, name: str, flags: str) -> str:
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n"
        f"stepping\t: 1\ncpu MHz\t\t: 2500.000\nflags\t\t: {flags}\nbugs\t\t: spectre_v1 spectre_v2\n\nprocessor\t: 1\n"
    )


def _arm(part: str, features: str) -> str:
    return (
        f"processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU part\t: {part}\n\nprocessor\t: 1\n"
    )


# By name: the architecture, and the start of /proc/cpuinfo.
CPUS = {
    "Westmere": ("x86_64", _x86("GenuineIntel", 6, 44, "Xeon X5670", _BASE.replace(" avx", ""))),
    "Sandy Bridge": ("x86_64", _x86("GenuineIntel", 6, 45, "Xeon E5-2670", _BASE)),
    "Haswell": ("x86_64", _x86("GenuineIntel", 6, 63, "Xeon Processor @ 2.50GHz", _AVX2)),
    "Skylake-SP": ("x86_64", _x86("GenuineIntel", 6, 85, "Xeon Platinum 8175M", _SKYLAKE)),
    "Cascade Lake": ("x86_64", _x86("GenuineIntel", 6, 85, "Xeon Platinum 8259CL", f"{_SKYLAKE} avx512_vnni")),
    "Sapphire Rapids": ("x86_64", _x86("GenuineIntel", 6, 143, "Xeon Platinum 8488C", _SAPPHIRE_RAPIDS)),
    "Alder Lake": ("x86_64", _x86("GenuineIntel", 6, 151, "Core i7-12700", f"{_AVX2} avx_vnni gfni vaes serialize")),
    "Sierra Forest": ("x86_64", _x86("GenuineIntel", 6, 175, "Xeon 6766E", f"{_AVX2} avx_vnni avx_vnni_int8")),
    "Zen 3": ("x86_64", _x86("AuthenticAMD", 25, 1, "EPYC 7R13", f"{_ZEN} vaes vpclmulqdq")),
    "Zen 4": ("x86_64", _x86("AuthenticAMD", 25, 17, "EPYC 9R14", _ZEN4)),
    "Cortex-A72": ("aarch64", _arm("0xd08", "fp asimd evtstrm crc32 cpuid")),
    "Neoverse N1": ("aarch64", _arm("0xd0c", f"{_ARM} ssbs")),
    "Ampere Altra": ("aarch64", _arm("0xd0c", _ARM)),
    "Neoverse V1": ("aarch64", _arm("0xd40", _NEOVERSE_V1)),
}
