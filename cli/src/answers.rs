//! What there is instead of commands and flags that other programs have.
//!
//! Two tables of names and what to say: `gannet: there is no command NAME: ...`.

/// A row: names, and what there is instead.
type Answer = (&'static [&'static str], &'static str);

const COMMANDS: &[Answer] = &[
    (
        &[
            "pull", "download", "get", "fetch", "search", "login", "push",
        ],
        "models are files and nothing is downloaded; fetch a GGUF file, then `gannet run -m FILE`",
    ),
    (
        &["list", "ls", "ps", "show", "info", "models"],
        "models are files that nobody keeps a list of; `gannet inspect FILE` shows one",
    ),
    (
        &["rm", "remove", "delete", "cp", "copy", "stop"],
        "models are files of yours and nothing runs in the background; there is nothing to manage",
    ),
    (
        &["create", "import", "export"],
        "`gannet convert FOLDER -o FILE.gguf` makes a GGUF file of safetensors, `gannet quantize` makes one \
         smaller, `gannet synth` makes one of random weights",
    ),
    (
        &["quantise", "llama-quantize"],
        "`gannet quantize IN OUT --type TYPE` makes a file smaller",
    ),
    (
        &["importance", "llama-imatrix"],
        "`gannet imatrix -m MODEL --file TEXT -o FILE` finds what matters to `gannet quantize`",
    ),
    (
        &["server", "start", "api", "llama-server"],
        "`gannet serve` answers programs over HTTP and has a page to chat on",
    ),
    (
        &[
            "talk",
            "generate",
            "complete",
            "completion",
            "cli",
            "prompt",
            "infer",
        ],
        "`gannet chat` talks with a model; `gannet run` continues a prompt",
    ),
    (
        &["embed", "embedding", "embeddings"],
        "it generates text; `gannet logits` writes what the model predicts",
    ),
    (
        &["eval", "ppl", "score"],
        "`gannet perplexity` measures a model on a text",
    ),
    (&["benchmark", "perf"], "`gannet bench` measures speed"),
    (
        &["tokenise", "encode"],
        "`gannet tokenize` gives the ids of a text",
    ),
    (
        &["detokenise", "decode"],
        "`gannet detokenize` gives the bytes of ids",
    ),
    (
        &["gguf", "dump", "metadata"],
        "`gannet inspect FILE` shows what a file holds",
    ),
    (
        &["devices", "gpus", "status", "env", "config"],
        "`gannet doctor` shows what this machine has",
    ),
    (&["version"], "`gannet --version` shows it"),
];

const FLAGS: &[Answer] = &[
    (
        &[
            "-ngl",
            "--ngl",
            "--n-gpu-layers",
            "--gpu-layers",
            "--num-gpu",
            "--gpu",
        ],
        "a model runs on one device as a whole; --device cuda puts all of it on the GPU, --device \
         cpu none",
    ),
    (
        &[
            "-sm",
            "--split-mode",
            "-ts",
            "--tensor-split",
            "-mg",
            "--main-gpu",
            "-dev",
        ],
        "a model runs on one GPU; --device cuda:N says which",
    ),
    (
        &[
            "-fa",
            "--flash-attn",
            "-nkvo",
            "--no-kv-offload",
            "-kvu",
            "--op-offload",
        ],
        "attention on a GPU always works so; leave it out",
    ),
    (
        &["-ctk", "-ctv", "--cache-type-k", "--cache-type-v"],
        "--kv-type TYPE is the type of keys and values together",
    ),
    (
        &["-b", "--batch-size", "-ub", "--ubatch-size"],
        "--chunk N is how many tokens of a prompt are computed in one step",
    ),
    (
        &["-tb", "--threads-batch"],
        "-t N sets threads, of prompts too",
    ),
    (
        &["--mlock", "--no-mmap", "--mmap", "--numa"],
        "weights are read from the mapped file, or moved to a GPU; leave it out",
    ),
    (
        &[
            "-hf",
            "-hfr",
            "--hf-repo",
            "--hf-file",
            "-mu",
            "--model-url",
        ],
        "nothing is downloaded; fetch the GGUF file and give it with -m FILE",
    ),
    (
        &[
            "-i",
            "--interactive",
            "-cnv",
            "--conversation",
            "--chat",
            "--chat-template",
            "-sys",
            "--system-prompt",
            "--jinja",
            "-if",
        ],
        "`gannet chat` is a conversation, in the model's own template; `gannet run` continues a text, and \
         special tokens are read in it",
    ),
    (
        &[
            "--grammar",
            "--grammar-file",
            "--json-schema",
            "-j",
            "--format",
        ],
        "text is not constrained; --stop TEXT ends it",
    ),
    (
        &[
            "--lora",
            "--lora-scaled",
            "--mmproj",
            "-md",
            "--model-draft",
            "--draft",
        ],
        "one model runs as its file is; there is nothing like it",
    ),
    (
        &[
            "--mirostat",
            "--typical",
            "--tfs",
            "--dry-multiplier",
            "--xtc-probability",
            "--samplers",
        ],
        "--temp, --top-k, --top-p, --min-p and the penalties choose tokens",
    ),
    (
        &[
            "--no-display-prompt",
            "--simple-io",
            "--color",
            "-co",
            "--log-disable",
            "--no-warmup",
        ],
        "a prompt is never printed, and figures go to standard error; -q leaves them out",
    ),
    (
        &["-e", "--escape", "--no-escape"],
        "a prompt is taken as it is; a shell writes a line break as $'\\n'",
    ),
    (
        &[
            "--rope-scaling",
            "--rope-scale",
            "--rope-freq-base",
            "--rope-freq-scale",
            "--yarn-orig-ctx",
        ],
        "ropes are stretched as the model's file says",
    ),
];

/// What there is instead of a command.
pub(crate) fn command(name: &str) -> Option<&'static str> {
    find(COMMANDS, name)
}

/// What there is instead of a flag, which begins with its dashes.
pub(crate) fn flag(name: &str) -> Option<&'static str> {
    find(FLAGS, name)
}

fn find(table: &[Answer], name: &str) -> Option<&'static str> {
    let row = table.iter().find(|(names, _)| names.contains(&name));
    row.map(|(_, answer)| *answer)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn names_stand_once_and_no_command_is_answered_away() {
        for table in [COMMANDS, FLAGS] {
            let mut names: Vec<&str> = table
                .iter()
                .flat_map(|(names, _)| *names)
                .copied()
                .collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
        for real in crate::Cli::command().get_subcommands() {
            assert_eq!(command(real.get_name()), None);
        }
    }
}
