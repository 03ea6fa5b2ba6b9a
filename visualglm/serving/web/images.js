// Image files before they are sent: checked, and shrunk where they are large. The model sees 224 x 224 pixels.

const SENT_AS_IS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const LARGEST_FILE = 1_000_000; // bytes that are sent as they are
const LONGEST_SIDE = 1024; // pixels after shrinking

export class ImageFileError extends Error {
  /** `kind` names a text of texts.js in `imageErrors`. */
  constructor(kind, name) {
    super(kind);
    this.kind = kind;
    this.name = name;
  }
}

/** A file that a user gave, as a blob that the server can read. Throws ImageFileError. */
export async function prepareImage(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  const isHeic = head.slice(4, 8) === "ftyp" && /hei[cxms]|hev[cx]|mif1|msf1/.test(head.slice(8));
  const image = await decode(file).catch(() => {
    throw new ImageFileError(isHeic ? "heic" : file.type.startsWith("image/") ? "broken" : "kind", file.name);
  });
  const small = file.size <= LARGEST_FILE && Math.max(image.naturalWidth, image.naturalHeight) <= 2 * LONGEST_SIDE;
  if (small && SENT_AS_IS.includes(file.type)) return file.slice(0, file.size, file.type);
  return draw(image, image.naturalWidth || LONGEST_SIDE, image.naturalHeight || LONGEST_SIDE, file.name);
}

/** A frame of a video element as a blob. */
export const takeFrame = (video) => draw(video, video.videoWidth, video.videoHeight, "camera");

async function decode(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

async function draw(source, width, height, name) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // transparency is shown over white, as the server shows it
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  if (!blob) throw new ImageFileError("broken", name);
  return blob;
}

/** A blob as a data URL. */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

const urls = new WeakMap();

/** An address of a blob for `<img src>`; the same one for the same blob. */
export function blobUrl(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}
