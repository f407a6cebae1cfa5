#include "inc/results.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <system_error>

#include "inc/options.h"

namespace {

// A file that appears whole or not at all: temporary name, fsync, rename.
class WholeFile {
 public:
  explicit WholeFile(const std::string &file)
      : file_(file), temporary_(file + "." + std::to_string(getpid()) + ".tmp"),
        descriptor_(open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0) {
      Fail();
    }
  }
  ~WholeFile() {
    if (descriptor_ >= 0) {
      close(descriptor_);
    }
    if (!kept_) {
      unlink(temporary_.c_str());
    }
  }
  WholeFile(const WholeFile &) = delete;
  WholeFile &operator=(const WholeFile &) = delete;

  void Write(const void *data, size_t bytes) {
    const char *place = static_cast<const char *>(data);
    while (bytes > 0) {
      const ssize_t written = write(descriptor_, place, bytes);
      if (written < 0 && errno == EINTR) {
        continue;
      }
      if (written <= 0) {
        Fail();
      }
      place += written;
      bytes -= static_cast<size_t>(written);
    }
  }

  void Keep() {
    if (fsync(descriptor_) != 0) {
      Fail();
    }
    const int closed = close(descriptor_);
    descriptor_ = -1;
    if (closed != 0 || rename(temporary_.c_str(), file_.c_str()) != 0) {
      Fail();
    }
    kept_ = true;
  }

 private:
  [[noreturn]] void Fail() const { throw Error(file_ + ": cannot be written (" + std::strerror(errno) + ")"); }

  const std::string file_;
  const std::string temporary_;
  int descriptor_;
  bool kept_ = false;
};

void MakeFolder(const std::string &dir) {
  std::error_code problem;
  std::filesystem::create_directories(dir, problem);
  if (problem) {
    throw Error(dir + ": cannot be made (" + problem.message() + ")");
  }
}

double Percentile(const std::vector<double> &sorted, double share) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

}  // namespace

void WriteFeatures(const std::string &dir, const std::vector<Image> &images, const std::vector<float> &features) {
  MakeFolder(dir);
  std::string head = "lightcnn features 1 " + std::to_string(images.size()) + " " +
                     std::to_string(features.size() / images.size()) + "\n";
  for (const Image &image : images) {
    head += image.id + "\n";
  }
  WholeFile file(dir + "/features.bin");
  file.Write(head.data(), head.size());
  file.Write(features.data(), features.size() * sizeof(float));
  file.Keep();
}

void WriteBins(const std::string &dir, const std::vector<Image> &images, const std::vector<float> &features) {
  const size_t length = features.size() / images.size();
  for (size_t i = 0; i < images.size(); ++i) {
    std::string name = images[i].id;
    std::replace(name.begin(), name.end(), '/', '_');
    WholeFile file(dir + "/" + name + "_0.bin");
    file.Write(features.data() + i * length, length * sizeof(float));
    file.Keep();
  }
}

std::string WriteTimes(const std::string &dir, std::vector<double> milliseconds, size_t num_images, double seconds) {
  const double sum = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0);
  const double mean = sum / static_cast<double>(milliseconds.size());
  std::sort(milliseconds.begin(), milliseconds.end());
  char text[512];
  std::snprintf(text, sizeof(text),
                "NN inference cost average time: %.4f ms of infer_count %zu\n"
                "latency p50: %.4f ms p99: %.4f ms\nimages: %zu in %.3f s, %.2f images/s\n",
                mean, milliseconds.size(), Percentile(milliseconds, 0.5), Percentile(milliseconds, 0.99), num_images,
                seconds, static_cast<double>(num_images) / seconds);
  MakeFolder(dir);
  WholeFile file(dir + "/test_perform_static.txt");
  file.Write(text, std::strlen(text));
  file.Keep();
  return text;
}
