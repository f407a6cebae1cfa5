#include "inc/options.h"

#include <charconv>
#include <cstdlib>
#include <functional>
#include <map>
#include <thread>


namespace {

int Number(const std::string &flag, const std::string &text, int low, int high) {
  int value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw Error(flag + " " + text + ": expected a number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

double Cosine(const std::string &flag, const std::string &text) {
  char *end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size() || !(value >= -1 && value <= 1)) {
    throw Error(flag + " " + text + ": expected a cosine from -1 to 1");
  }
  return value;
}

std::string Target(const std::string &text) {
  if (text != "Ascend" && text != "CPU") {
    throw Error("--device_target " + text + ": expected Ascend or CPU");
  }
  return text;
}

// What MindSpore Lite takes for Ascend, see AscendDeviceInfo::SetPrecisionMode.
std::string Precision(const std::string &text) {
  for (const char *known : {"enforce_fp16", "preferred_fp32", "enforce_fp32", "enforce_origin", "preferred_optimal"}) {
    if (text == known) {
      return text;
    }
  }
  throw Error("--precision_mode " + text +
              ": expected enforce_fp16, preferred_fp32, enforce_fp32, enforce_origin or preferred_optimal");
}

void Check(Options *options) {
  if (options->mindir_path.empty()) {
    throw Error("--mindir_path is missing: the model that export.py wrote");
  }
  const int sources = static_cast<int>(!options->dataset_path.empty()) + static_cast<int>(!options->images.empty()) +
                      static_cast<int>(!options->first.empty());
  if (sources != 1) {
    throw Error(sources == 0 ? "--dataset_path is missing: the folder that preprocess.py wrote; or --images, or --compare"
                             : "--dataset_path, --images and --compare say three ways where faces come from; give one");
  }
  if (options->threshold <= 1 && options->first.empty()) {
    throw Error("--threshold is for --compare");
  }
  if (options->threads == 0) {
    options->threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
}

}  // namespace

Options ParseOptions(int argc, const char *const *argv) {
  Options options;
  const std::map<std::string, std::function<void(const std::string &, const std::string &)>> known = {
    {"--mindir_path", [&](const auto &, const auto &text) { options.mindir_path = text; }},
    {"--dataset_path", [&](const auto &, const auto &text) { options.dataset_path = text; }},
    {"--images", [&](const auto &, const auto &text) { options.images = text; }},
    {"--compare", [&](const auto &, const auto &text) { options.first = text; }},
    {"--threshold", [&](const auto &flag, const auto &text) { options.threshold = Cosine(flag, text); }},
    {"--result_path", [&](const auto &, const auto &text) { options.result_path = text; }},
    {"--time_path", [&](const auto &, const auto &text) { options.time_path = text; }},
    {"--device_target", [&](const auto &, const auto &text) { options.device_target = Target(text); }},
    {"--device_id", [&](const auto &flag, const auto &text) { options.device_id = Number(flag, text, 0, 1023); }},
    {"--precision_mode", [&](const auto &, const auto &text) { options.precision_mode = Precision(text); }},
    {"--batch_size", [&](const auto &flag, const auto &text) { options.batch_size = Number(flag, text, 1, 4096); }},
    {"--threads", [&](const auto &flag, const auto &text) { options.threads = Number(flag, text, 1, 1024); }},
  };
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      options.help = true;
      return options;
    }
    if (flag == "--write_bins") {
      options.write_bins = true;
      continue;
    }
    const size_t equals = flag.find('=');
    std::string value = equals == std::string::npos ? "" : flag.substr(equals + 1);
    flag = flag.substr(0, equals);
    const auto setter = known.find(flag);
    if (setter == known.end()) {
      throw Error(flag + ": no such flag; --help lists them");
    }
    if (equals == std::string::npos) {
      if (++i == argc) {
        throw Error(flag + " needs a value");
      }
      value = argv[i];
    }
    setter->second(flag, value);
    if (flag == "--compare") {
      if (++i == argc || argv[i][0] == '-') {
        throw Error("--compare needs two pictures");
      }
      options.second = argv[i];
    }
  }
  Check(&options);
  return options;
}

std::string Usage() {
  return "Embed the faces that preprocess.py wrote, on an Ascend 310 or the CPU.\n\n"
         "  main --mindir_path net.mindir --dataset_path preprocess_Result --device_id 0\n"
         "  main --mindir_path net.mindir --dataset_path preprocess_Result --device_target CPU --batch_size 16\n"
         "  main --mindir_path net.mindir --images faces --device_target CPU\n"
         "  main --mindir_path net.mindir --compare a.jpg b.jpg --threshold 0.4 --device_target CPU\n\n"
         "  --mindir_path FILE      MINDIR of export.py; FILE.json beside it tells what faces it takes\n"
         "  --dataset_path DIR      folder with manifest.tsv and the .bin files\n"
         "  --images DIR            folder of aligned faces as pictures, in its place (needs OpenCV when built)\n"
         "  --compare A B           two pictures: prints the cosine of their embeddings\n"
         "  --threshold T           of --compare: also says whether they are one person\n"
         "  --result_path DIR       where features.bin goes (default result_Files)\n"
         "  --time_path DIR         where test_perform_static.txt goes (default time_Result)\n"
         "  --device_target NAME    Ascend or CPU (default Ascend)\n"
         "  --device_id N           which card (default 0)\n"
         "  --batch_size N          images a call (default: the model's own)\n"
         "  --precision_mode MODE   what an Ascend computes in: enforce_fp16 (default), preferred_fp32, enforce_fp32,\n"
         "                          enforce_origin or preferred_optimal; the CPU computes in float32\n"
         "  --threads N             on the CPU: models at work, one thread each (default: one per core)\n"
         "  --write_bins            also write one <id>_0.bin an image\n";
}
