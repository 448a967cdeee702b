#include "command_line.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "command_check_gradient.h"
#include "command_embed.h"
#include "command_eval.h"
#include "command_inspect.h"
#include "command_search.h"
#include "command_train.h"
#include "launch.h"
#include "process_group.h"
#include "step_settings.h"
#include "tapecache/core/parallel_for.h"

namespace tapecache::program {

namespace {

const CLI::Range kCount(std::int64_t{1}, std::int64_t{1} << 40);

void add_model(CLI::App& app, ModelOptions& options) {
  app.add_option(
         "--model", options.folder,
         "Folder of the model, as transformers or sentence-transformers write it, or of an adapter, as PEFT does")
      ->required();
  app.add_option("--base", options.base, "Folder of the model that an adapter is of (default: as the adapter says)");
  app.add_option("--max-tokens", options.max_tokens, "Cut longer texts, special tokens included (default: the model's)")
      ->check(kCount);
  app.add_option("--batch-tokens", options.batch_tokens, "Tokens of a forward where texts are only encoded")
      ->check(kCount)
      ->capture_default_str();
  app.add_flag("--bf16", options.bf16, "Matrix products in bfloat16");
}

void add_over_white(CLI::App& app, ImageOptions& options) {
  app.add_flag("--over-white", options.over_white, "Lay images with transparency over white (default: drop it)");
}

void add_pairs(CLI::App& app, std::filesystem::path& pairs, PairsOptions& options) {
  app.add_option("--pairs", pairs, "Texts, or images and texts, that belong together: .csv, .tsv or .jsonl")
      ->required();
  auto* columns =
      app.add_option("--columns", options.columns,
                     "Columns of anchor, positive and hard negatives, by name, or by number without a header "
                     "(default: anchor or query, positive or passage, negative_1, ...)")
          ->delimiter(',')
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--image-column", options.image,
                 "Column of images' paths, from the file's folder (default: image, filepath, ...)")
      ->excludes(columns);
  app.add_option("--caption-column", options.caption, "Column of their texts (default: caption, title, text, ...)")
      ->excludes(columns);
  app.add_flag("!--no-header", options.header, "The first row of a table is a pair");
  app.add_flag("--skip-empty", options.skip_empty, "Pass over rows with an empty text");
}

void add_prefixes(CLI::App& app, PrefixOptions& options) {
  app.add_option("--query-prefix", options.query, "Before every anchor, as 'query: ' (default: the model's prompt)");
  app.add_option("--passage-prefix", options.passage, "Before all other texts (default: the model's prompt)");
}

void add_loss(CLI::App& app, LossOptions& options) {
  app.add_option("--loss", options.name,
                 "infonce, clip, siglip, gist or matryoshka:WIDTH,WIDTH,... (default: infonce; clip of images)");
  app.add_option("--scale", options.scale,
                 "What similarities are multiplied by (default: 20; clip 14.3, siglip 10, gist 100)");
  app.add_option("--guide", options.guide, "Folder of gist's guide model (default: the model as it was)");
}

void add_tuning(CLI::App& app, TuningOptions& o) {
  app.add_option("--lora", o.lora, "Rank of adapters that are trained in place of the model (low-rank adaptation)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  app.add_option("--lora-alpha", o.lora_alpha, "They are scaled by alpha / rank (default: twice the rank)");
  app.add_option("--lora-targets", o.lora_targets,
                 "Linear layers to adapt: ends of their names, as query,value, or regular expressions of whole names "
                 "(default: all-linear)")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--lora-dropout", o.lora_dropout, "Of what adapters read")->check(CLI::Range(0.0, 0.99));
  app.add_flag("--merge", o.merge, "Write the whole model, not its adapter");
  app.add_option("--group", o.groups,
                 "Learning rate and weight decay of some parameters, as 'pooler.*:rate=1e-4,decay=0'; may be repeated")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--layer-decay", o.layer_decay, "Each block is trained at this much of the rate of the one above it")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  app.add_option("--ema", o.ema, "Measure and write the moving average of the weights, of which this much stays a step")
      ->check(CLI::Range(0.0, 0.9999999));
  app.add_option("--schedule", o.schedule,
                 "Of the rate: warmup_cosine, or as transformers constant, constant_with_warmup, linear, cosine, "
                 "cosine_with_restarts")
      ->capture_default_str();
}

void add_train(CLI::App& app, TrainOptions& o) {
  add_model(app, o.model);
  add_pairs(app, o.pairs, o.columns);
  add_prefixes(app, o.prefixes);
  add_over_white(app, o.model.images);
  app.add_option("--crop", o.model.images.crop,
                 "Smallest share of an image that a random crop of it has; 1: no such crops")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--flip", o.model.images.flip, "Share of images whose left and right are exchanged")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--loaders", o.loaders, "Threads that read images while a step computes (default: a quarter of them)")
      ->check(CLI::Range(1, 256));
  app.add_option("--out", o.out, "New folder for the trained model; OUT.run has its checkpoint and metrics")
      ->required();
  app.add_option("--batch", o.batch, "Pairs a step; all others are each one's negatives")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30))
      ->capture_default_str();
  auto* chunk = app.add_option("--chunk", o.chunk, "Texts, or images, of a chunk, each padded to the batch's longest")
                    ->check(kCount);
  auto* tokens = app.add_option("--chunk-tokens", o.chunk_tokens,
                                "Tokens of a chunk of texts of like length, padding included (default: 4096)")
                     ->check(kCount);
  auto* memory = app.add_option("--memory", o.memory, "Bytes to use at most, as 4G: chunks follow from it")
                     ->transform(CLI::AsSizeValue(false));
  chunk->excludes(tokens)->excludes(memory);
  add_loss(app, o.loss);
  app.add_option("--temperature", o.temperature, "1 / scale")->excludes("--scale");
  add_tuning(app, o.tuning);
  app.add_option("--freeze", o.freeze, "Pattern of parameters to leave as they are, as 'embeddings.*'; may be repeated")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  auto* epochs = app.add_option("--epochs", o.epochs, "Times that every pair is seen")
                     ->check(CLI::PositiveNumber)
                     ->capture_default_str();
  app.add_option("--steps", o.steps, "Steps, in place of epochs")->check(kCount)->excludes(epochs);
  app.add_option("--rate", o.rate, "Learning rate of AdamW at its highest")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--warmup", o.warmup, "Steps, or below 1 a share of all, that the rate rises; then as --schedule says")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--weight-decay,--decay", o.weight_decay, "Of AdamW, on weights of two or more axes")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--clip-norm", o.clip_norm, "Largest norm of the gradient; 0: any")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--dropout", o.dropout, "In place of config.json's")->check(CLI::Range(0.0, 0.99));
  app.add_flag("--checkpointing", o.checkpointing,
               "Keep only what enters each block, and compute it again in backward");
  app.add_option("--seed", o.seed, "Of batches, of what is held out and of dropout")->capture_default_str();
  auto* pairs = app.add_option("--eval-pairs", o.eval_pairs, "File of held-out pairs, in place of a share of --pairs");
  app.add_option("--eval-share", o.eval_share, "Share of the pairs to hold out; 0: none")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str()
      ->excludes(pairs);
  app.add_option("--eval-limit", o.eval_limit, "Most pairs of that share")->check(kCount)->capture_default_str();
  app.add_option("--eval-every", o.eval_every,
                 "Steps between evaluations; 0: before and after alone (default: an epoch)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--save-every", o.save_every, "Steps between checkpoints; 0: at the end alone")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--check-every", o.check_every,
                 "Steps between comparisons of the cached with the direct gradient, on 16 pairs; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--resume", o.resume, "Go on from OUT.run's checkpoint, where there is one, to the same bits");
  app.add_option("--processes", o.processes, "Processes on this machine that share each batch, by MPI")
      ->check(CLI::Range(1, 1024));
  app.add_option("--wait", o.wait, "Seconds that a process waits for another before the run ends; 0: for ever")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30))
      ->capture_default_str();
  app.add_flag("--reproducible", o.reproducible, "The same bits for 1, 2, 4 and 8 processes, at some cost");
}

void add_texts(CLI::App& app, TextsOptions& options) {
  app.add_option("--column", options.column, "Column of a .csv, .tsv or .jsonl that has the texts");
  app.add_flag("!--no-header", options.header, "The first row of a table is a text");
}

void add_embed(CLI::App& app, EmbedCommand& o) {
  add_model(app, o.model);
  app.add_option("--input", o.input, "Texts: a line each (.txt), or a row (.csv, .tsv, .jsonl)");
  app.add_option("--images", o.images,
                 "Images in their place: a folder, or a file that has their paths as --input has texts");
  add_over_white(app, o.model.images);
  app.add_option("--out", o.out, "Vectors, in their order: .npy, or .safetensors (tensor 'embeddings')")->required();
  add_texts(app, o.texts);
  auto* prefix = app.add_option("--prefix", o.prefix,
                                "Before every text (default: the model's prompt for documents, else its default one)");
  app.add_option("--prompt", o.prompt, "Name of one of the model's prompts, as query of texts to search for")
      ->excludes(prefix);
  app.add_flag("--float16", o.float16, "Write half-precision numbers");
}

void add_search(CLI::App& app, SearchCommand& o) {
  add_model(app, o.model);
  app.add_option("--index", o.index, "Vectors that tapecache embed wrote")->required();
  app.add_option("--texts", o.texts, "The texts that they are of, to be shown");
  add_texts(app, o.columns);
  app.add_option("--top", o.top, "How many to show")->check(kCount)->capture_default_str();
  app.add_option("--query-prefix", o.prefix, "Before every text searched for (default: the model's prompt)");
  app.add_flag("--json", o.json, "Print an object a line");
  app.add_option("text", o.queries, "What to search for")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void add_eval(CLI::App& app, EvalCommand& o) {
  add_model(app, o.model);
  add_over_white(app, o.model.images);
  add_pairs(app, o.pairs, o.columns);
  add_prefixes(app, o.prefixes);
  app.add_flag("--json", o.json, "Print an object");
}

void add_check_gradient(CLI::App& app, CheckGradientCommand& o) {
  add_model(app, o.model);
  add_over_white(app, o.model.images);
  add_pairs(app, o.pairs, o.columns);
  add_prefixes(app, o.prefixes);
  add_loss(app, o.loss);
  app.add_option("--samples", o.samples, "Pairs of the batch, the first of the file")
      ->check(kCount)
      ->capture_default_str();
  app.add_option("--chunk", o.chunk, "Texts of a chunk")->check(kCount)->capture_default_str();
  app.add_option("--seed", o.seed, "Of dropout")->capture_default_str();
}

}  // namespace

int run_command_line(int argc, char** argv) {
  CLI::App app{"Trains and runs text encoders in the folders of transformers and sentence-transformers."};
  app.name("tapecache");
  app.require_subcommand(1);
  // So that a script can end with what is to be otherwise.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", std::string("tapecache " TAPECACHE_VERSION));
  app.footer(
      "Exit codes: 0 done, 1 wrong usage or input, 2 training or a check failed, 3 out of memory, "
      "4 another process of the run failed, 128 + n ended by signal n.");
  int threads = 0;
  std::function<int()> run;

  // Each holds its command's options until it is run.
  const auto command = [&]<class Options>(const char* name, const char* about, Options& options, auto add, auto call) {
    CLI::App* sub = app.add_subcommand(name, about);
    sub->add_option("--threads", threads, "Threads to compute with (default: one a processor)")
        ->check(CLI::Range(1, 1024));
    add(*sub, options);
    sub->callback([&run, &options, call] { run = [&options, call] { return call(options); }; });
  };
  TrainOptions train;
  EmbedCommand embed;
  SearchCommand search;
  EvalCommand eval;
  InspectCommand inspect;
  CheckGradientCommand check;
  const auto train_or_launch = [&](const TrainOptions& options) {
    if (options.processes.value_or(1) == 1 || launched_processes() > 1) return run_train(options);
    check_processes(options, *options.processes);
    std::vector<std::string> again(argv + 1, argv + argc);
    again.insert(again.begin(), own_path());
    // They share the processors of the machine.
    if (threads == 0) again.push_back(fmt::format("--threads={}", std::max(1, thread_count() / *options.processes)));
    return launch(*options.processes, again);
  };
  command("train", "Fine-tune a model on pairs of texts, in batches of any size", train, add_train, train_or_launch);
  command("embed", "Write the vectors of texts", embed, add_embed, run_embed);
  command("search", "Find the texts nearest to some", search, add_search, run_search);
  command("eval", "Measure how well anchors find their positives: recall, MRR, nDCG", eval, add_eval, run_eval);
  command(
      "inspect", "Show what a model's folder holds, and what of it is not supported", inspect,
      [](CLI::App& sub, InspectCommand& o) {
        sub.add_option("folder", o.folder, "Folder of the model, or of an adapter")->required();
        sub.add_option("--base", o.base, "Folder of the model that an adapter is of (default: as the adapter says)");
        sub.add_flag("--parameters", o.parameters, "List every parameter");
      },
      run_inspect);
  command("check-gradient", "Compare the cached gradient with that of the whole batch, on your pairs", check,
          add_check_gradient, run_check_gradient);
  const auto is_asked_for = [&](const CLI::App* sub) { return sub->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_asked_for).empty()) {
    fmt::print(stderr, "tapecache: there is no command '{}'; tapecache --help lists them\n", argv[1]);
    return kBadInput;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);  // asked for help
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "tapecache: {}; tapecache {}--help says more\n", e.what(),
               app.get_subcommands().empty() ? "" : app.get_subcommands().front()->get_name() + " ");
    return kBadInput;
  }
  if (threads > 0) set_thread_count(threads);
  return run();
}

}  // namespace tapecache::program
